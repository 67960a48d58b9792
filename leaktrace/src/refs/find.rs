//! Types by name and objects by address; where there is none, what comes near.

use std::collections::BTreeMap;

use super::RefsError;
use super::graph::Graph;
use super::nodes::Node;

/// Candidates that are named.
const CANDIDATES: usize = 5;

/// The objects of a type by its name: "module.Class", or its end where that is unique.
pub(super) fn instances(graph: &Graph, wanted: &str) -> Result<(String, Vec<Node>), RefsError> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let names: Vec<String> = graph.types.iter().map(crate::census::Type::qualified).collect();
    for node in 0..graph.nodes.len() as Node {
        *counts.entry(names[usize::from(graph.nodes.type_of(node))].clone()).or_default() += 1;
    }
    for name in &names {
        counts.entry(name.clone()).or_default();
    }
    let wanted = wanted.strip_prefix("builtins.").unwrap_or(wanted);
    let name = if counts.contains_key(wanted) {
        wanted.to_owned()
    } else {
        let ends: Vec<&String> = counts.keys().filter(|name| name.ends_with(&format!(".{wanted}"))).collect();
        match ends.as_slice() {
            [] => return Err(RefsError::NoType { name: wanted.to_owned(), near: near(&counts, wanted) }),
            [one] => (*one).clone(),
            several => {
                let shown: Vec<String> = several.iter().map(|name| counted(name, counts[*name])).collect();
                return Err(RefsError::Ambiguous { name: wanted.to_owned(), candidates: shown.join(", ") });
            }
        }
    };
    if counts[&name] == 0 {
        return Err(RefsError::NoInstances { name });
    }
    let wanted: Vec<bool> = names.iter().map(|known| *known == name).collect();
    let objects = (0..graph.nodes.len() as Node).filter(|&node| wanted[usize::from(graph.nodes.type_of(node))]);
    Ok((name, objects.collect()))
}

fn counted(name: &str, count: u64) -> String {
    format!("{name} ({count} object{})", if count == 1 { "" } else { "s" })
}

/// Names that a slip of the finger may have meant.
fn near(counts: &BTreeMap<String, u64>, wanted: &str) -> String {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_lowercase();
    let wanted_last = last(wanted);
    let score = |name: &str| {
        let whole = strsim::normalized_damerau_levenshtein(&name.to_lowercase(), &wanted.to_lowercase());
        let end = strsim::normalized_damerau_levenshtein(&last(name), &wanted_last);
        whole.max(end * 0.95)
    };
    let mut all: Vec<(f64, &String)> =
        counts.iter().filter(|(_, count)| **count > 0).map(|(n, _)| (score(n), n)).collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    let near = all.into_iter().filter(|(score, _)| *score > 0.5).take(CANDIDATES);
    let near: Vec<String> = near.map(|(_, name)| counted(name, counts[name])).collect();
    near.join(", ")
}

/// The object at an address.
pub(super) fn at(graph: &Graph, address: u64) -> Result<Node, RefsError> {
    graph.nodes.find(address).ok_or_else(|| {
        let near = graph.nodes.nearby(address).and_then(|near| Some((near, graph.nodes.find(near)?)));
        let near = near.map(|(near, node)| format!("{near:#x} ({})", graph.type_of(node).qualified()));
        RefsError::NoObject { address, near: near.unwrap_or_default() }
    })
}
