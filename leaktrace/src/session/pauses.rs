//! The collector's probes alone: how long each collection stops the process.

use std::path::Path;
use std::sync::Arc;

use leaktrace_common::wire::GcRecord;

use super::SessionError;
use super::drain::Drain;
use super::native::NativeNames;
use crate::cpython::discover::{DiscoverError, Interpreter};
use crate::cpython::threads;
use crate::plan;
use crate::target::Target;
use crate::tracer::load::Sizes;
use crate::tracer::{Spec, Tracer, leftovers};

/// Bytes of the ring of all but collections.
const RING_BYTES: u32 = 1 << 16;

/// Armed probes on both ends of each collection. Dropping it disarms them.
#[derive(Debug)]
pub struct PauseProbes {
    tracer: Tracer,
    drain: Drain,
}

impl PauseProbes {
    /// Arms them; `None` where the collector's function was not found, or needs return probes that are not safe in this
    /// target (`return_probes`).
    ///
    /// # Errors
    /// When there is no plan of the target, or the kernel refuses the probes.
    pub fn start(
        target: &Arc<Target>,
        interpreter: &Interpreter,
        tracefs: &Path,
        return_probes: bool,
    ) -> Result<Option<Self>, SessionError> {
        leftovers::sweep_dead(tracefs);
        let (maps, memory) = (target.maps()?, target.memory());
        let mut plan = plan::assemble::plan(&plan::assemble::Inputs::of(target, interpreter, &maps, &memory))?;
        if !return_probes {
            plan.without_returns();
        }
        plan.only_collector();
        if plan.probes.is_empty() {
            return Ok(None);
        }
        let main = threads::main_interpreter(&memory, &interpreter.offsets, interpreter.runtime)
            .map_err(DiscoverError::Memory)?;
        let sizes = Sizes { blocks: 1, ring_bytes: RING_BYTES };
        let spec = Spec::of(target.pid(), interpreter, main, &plan, tracefs, sizes);
        let mut tracer = Tracer::load(&spec)?;
        let names = NativeNames::new(Arc::clone(target));
        let drain =
            Drain::start(tracer.take_rings()?, target.memory(), names, Box::new(|| ())).map_err(SessionError::Drain)?;
        // The very last thing before arming: the bytes must still be those that the plan was made from.
        plan::assemble::verify(&plan, &memory)?;
        tracer.arm(&spec)?;
        Ok(Some(Self { tracer, drain }))
    }

    /// The collections that ended since the last call.
    pub fn take(&self) -> Vec<GcRecord> {
        self.drain.settle().take_collections()
    }

    /// Disarms them, before what is left is taken.
    pub fn disarm(&mut self) {
        self.tracer.disarm();
    }
}
