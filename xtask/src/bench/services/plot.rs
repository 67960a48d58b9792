//! The pictures of docs/services.md.

use std::fmt::Display;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::curves::{Axis, Curve, Curves, Point};
use super::results::{Comparison, Figures, Interpreter, Measured};
use crate::bench::spread::Spread;

/// Names of the pictures in docs/images.
pub(super) const COMPARISON: &str = "services.svg";
pub(super) const CURVES: &str = "services-curves.svg";

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(60, 60, 60);
const COLORS: [RGBColor; 4] =
    [RGBColor(0, 90, 181), RGBColor(220, 50, 32), RGBColor(26, 133, 73), RGBColor(140, 86, 180)];
const COLUMNS: usize = 3;
/// Pixels of a panel, of the names left of the panels, and of the legend above them.
const PANEL: (u32, u32) = (300, 230);
const NAMES: u32 = 250;
const LEGEND: u32 = 36;
const MIB: f64 = 1048576.0;

/// A figure of the comparison: its name, and its values as factors of the untraced.
type Series = (&'static str, fn(&Figures) -> Option<Spread>);
const SERIES: [Series; 2] = [
    ("throughput, times less", |figures| Some(figures.throughput.map(|left| 1.0 / left))),
    ("p99 latency, times more", |figures| figures.latency.as_ref().map(|latency| latency.p99)),
];

/// A panel for each workload: what each contender does to throughput (dots) and p99 latency (squares), a colour for each
/// interpreter.
pub(super) fn comparison(of: &Comparison) -> Result<String> {
    let Some(first) = of.interpreters.first() else { return Err(anyhow!("nothing was measured")) };
    let rows = first.services.len().div_ceil(COLUMNS) as u32;
    picture((NAMES + COLUMNS as u32 * PANEL.0, LEGEND + rows * PANEL.1), |root| {
        let (legend, panels) = root.split_vertically(LEGEND);
        let mut x = 10;
        for (interpreter, color) in of.interpreters.iter().zip(COLORS) {
            for (shape, (name, _)) in SERIES.iter().enumerate() {
                let text = format!("{name}, {}", interpreter.name.split(' ').next().unwrap_or_default());
                x += entry(&legend, x, &text, |at| mark(at, shape, color))?;
            }
        }
        let panels = panels.margin(0, 0, NAMES, 0).split_evenly((rows as usize, COLUMNS));
        for (index, panel) in panels.iter().take(first.services.len()).enumerate() {
            let alike: Vec<&Measured> = of.interpreters.iter().filter_map(|one| one.services.get(index)).collect();
            workload(root, panel, &alike, index % COLUMNS == 0, most(&of.interpreters))?;
        }
        Ok(())
    })
}

/// The largest factor of all.
fn most(interpreters: &[Interpreter]) -> f64 {
    let figures = interpreters.iter().flat_map(|one| &one.services).flat_map(|one| &one.rows);
    let figures = figures.filter_map(|row| row.figures.as_ref());
    figures.flat_map(|figures| SERIES.map(|(_, of)| of(figures).map_or(1.0, |spread| spread.max))).fold(2.0, f64::max)
}

fn workload(root: &Area, panel: &Area, alike: &[&Measured], is_first: bool, most: f64) -> Result<()> {
    let Some(one) = alike.first() else { return Ok(()) };
    let last = one.rows.len() as f64 - 0.5;
    let mut chart = ChartBuilder::on(panel)
        .caption(one.workload.name(), (FONT, 15, &INK))
        .margin_right(16)
        .x_label_area_size(24)
        .build_cartesian_2d((0.5..most * 1.2).log_scale(), last..-0.5)
        .map_err(wrong)?;
    let mut mesh = chart.configure_mesh();
    mesh.disable_y_mesh().disable_y_axis().x_labels(4).light_line_style(WHITE).bold_line_style(RGBColor(225, 225, 225));
    mesh.x_label_formatter(&|x| format!("x{x}")).label_style((FONT, 11, &INK)).draw().map_err(wrong)?;
    let untraced = PathElement::new([(1.0, last), (1.0, -0.5)], INK);
    chart.draw_series([untraced]).map_err(wrong)?;
    for (row, contender) in one.rows.iter().map(|row| &row.contender).enumerate() {
        if is_first {
            let (x, y) = chart.backend_coord(&(0.5, row as f64));
            let text = Text::new(
                contender.clone(),
                (x - NAMES as i32 + 10, y - 6),
                (FONT, 12).into_text_style(root).color(&INK),
            );
            root.draw(&text).map_err(wrong)?;
        }
        for (python, (measured, color)) in alike.iter().zip(COLORS).enumerate() {
            let Some(figures) = measured.rows.get(row).and_then(|row| row.figures.as_ref()) else { continue };
            for (shape, (_, of)) in SERIES.iter().enumerate() {
                let Some(spread) = of(figures) else { continue };
                // Beside each other, so that none hides another.
                let y = row as f64 + 0.17 * (2.0 * python as f64 + shape as f64 + 0.5 - alike.len() as f64);
                let range = PathElement::new([(spread.min.max(0.5), y), (spread.max, y)], color);
                chart.draw_series([range]).map_err(wrong)?;
                root.draw(&mark(chart.backend_coord(&(spread.median, y)), shape, color)).map_err(wrong)?;
            }
        }
    }
    Ok(())
}

/// A cost of the collector: its name, and its value.
type Cost = (&'static str, fn(&Point) -> Spread);
const COSTS: [Cost; 2] = [
    ("collector's CPU, % of a core", |point| point.cores.map(|cores| 100.0 * cores)),
    ("resident and BPF maps, MiB", |point| point.resident_bytes.map(|bytes| (bytes + point.bpf_bytes.median) / MIB)),
];

/// A panel for each axis and cost, a colour for each mode.
pub(super) fn curves(of: &Curves) -> Result<String> {
    let size = (Axis::ALL.len() as u32 * PANEL.0, LEGEND + COSTS.len() as u32 * PANEL.1);
    picture(size, |root| {
        let (legend, panels) = root.split_vertically(LEGEND);
        let mut x = 10;
        for (mode, color) in modes(of).into_iter().zip(COLORS) {
            x += entry(&legend, x, mode, |at| mark(at, 0, color))?;
        }
        let panels = panels.split_evenly((COSTS.len(), Axis::ALL.len()));
        let places = COSTS.iter().flat_map(|cost| Axis::ALL.map(|axis| (axis, cost)));
        for (panel, (axis, cost)) in panels.iter().zip(places) {
            let curves: Vec<&Curve> = of.lines.iter().filter(|curve| curve.axis == axis).collect();
            costs(panel, axis, cost, &curves)?;
        }
        Ok(())
    })
}

fn modes(of: &Curves) -> Vec<&str> {
    let mut modes: Vec<&str> = of.lines.iter().map(|curve| curve.mode.as_str()).collect();
    modes.sort_unstable();
    modes.dedup();
    modes
}

fn costs(panel: &Area, axis: Axis, (name, cost): &Cost, curves: &[&Curve]) -> Result<()> {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let sizes = Spread::of(points().map(|point| f64::from(point.size))).ok_or_else(|| anyhow!("no points"))?;
    let top = points().map(|point| cost(point).max).fold(0.0, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(panel)
        .caption(name, (FONT, 13, &INK))
        .margin_right(24)
        .x_label_area_size(34)
        .y_label_area_size(44)
        .build_cartesian_2d(0.0..sizes.max * 1.05, 0.0..top.max(0.1))
        .map_err(wrong)?;
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(WHITE).bold_line_style(RGBColor(225, 225, 225)).x_labels(4).y_labels(5);
    mesh.x_label_formatter(&|x| short(*x)).x_desc(axis.name()).label_style((FONT, 11, &INK));
    mesh.draw().map_err(wrong)?;
    let mut modes: Vec<&str> = curves.iter().map(|curve| curve.mode.as_str()).collect();
    modes.sort_unstable();
    for curve in curves {
        let color = COLORS[modes.iter().position(|mode| *mode == curve.mode).unwrap_or(0) % COLORS.len()];
        let at = |point: &Point| (f64::from(point.size), cost(point));
        let line = PathElement::new(curve.points.iter().map(|p| (at(p).0, at(p).1.median)).collect::<Vec<_>>(), color);
        chart.draw_series([line]).map_err(wrong)?;
        for (x, spread) in curve.points.iter().map(at) {
            chart.draw_series([PathElement::new([(x, spread.min), (x, spread.max)], color)]).map_err(wrong)?;
            chart.draw_series([Circle::new((x, spread.median), 3, color.filled())]).map_err(wrong)?;
        }
    }
    Ok(())
}

/// "60k", "4M".
fn short(number: f64) -> String {
    match number {
        n if n >= 1e6 => format!("{}M", n / 1e6),
        n if n >= 1e3 => format!("{}k", n / 1e3),
        n => n.to_string(),
    }
}

/// A dot or a square.
fn mark<'a>((x, y): (i32, i32), shape: usize, color: RGBColor) -> DynElement<'a, SVGBackend<'a>, (i32, i32)> {
    match shape {
        0 => Circle::new((x, y), 4, color.filled()).into_dyn(),
        _ => Rectangle::new([(x - 3, y - 3), (x + 4, y + 4)], color.stroke_width(2)).into_dyn(),
    }
}

/// An entry of a legend; the pixels that it takes.
fn entry<'a>(
    legend: &Area<'a>,
    x: i32,
    text: &str,
    mark: impl Fn((i32, i32)) -> DynElement<'a, SVGBackend<'a>, (i32, i32)>,
) -> Result<i32> {
    legend.draw(&mark((x + 5, 18))).map_err(wrong)?;
    legend
        .draw(&Text::new(text.to_owned(), (x + 15, 12), (FONT, 13).into_text_style(legend).color(&INK)))
        .map_err(wrong)?;
    Ok(45 + 7 * text.len() as i32)
}

/// The SVG of what is drawn.
fn picture(size: (u32, u32), draw: impl FnOnce(&Area) -> Result<()>) -> Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE).map_err(wrong)?;
        draw(&root)?;
        root.present().map_err(wrong)?;
    }
    Ok(svg)
}

/// plotters' errors borrow what they are about.
fn wrong(error: impl Display) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}

#[cfg(test)]
mod tests {
    use crate::bench::services::results::sample;

    #[test]
    fn pictures() {
        let results = sample::results();
        let pictures = [
            super::comparison(&results.comparison.unwrap()).unwrap(),
            super::curves(&results.curves.unwrap()).unwrap(),
        ];
        let inside = [["alloc storm", "memray attach"], ["100k", "objects in the heap"]];
        for (svg, expected) in pictures.iter().zip(inside) {
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
            assert!(expected.iter().all(|text| svg.contains(text)), "{expected:?} in {svg}");
        }
    }
}
