//! Watching at a bounded cost: short windows of tracing, at random moments, of a part of the plan; what survives its window is
//! followed by reading memory. Pure but for the reading of [`followers`].
//!
//! * [`units`]: what can be armed by itself, and what it serves; [`costs`]: what it costs, `hit_cost`: what a hit does.
//! * [`choice`]: what the next window arms; `parts`: where all of a class would cost too much; [`sizes`]: what it does about the C
//!   allocator's blocks, by their size.
//! * [`exposure`]: for how long each size class was seen, and what was left out; `shown`: which part of its growth that was;
//!   [`owner`]: whose the blocks are that outlived their windows.
//! * [`allowance`]: whether what is rare may stay armed beside the windows.
//! * [`budget`]: what has been spent, and when the next window may open; [`latency`]: what windows do to slow requests; [`overrun`]:
//!   whether it can be kept at all.
//! * [`followers`]: blocks that outlived their window, until memory shows them dead; `mark`: what each is known by; `occupant`: the
//!   object in it, which may be another's.
//! * [`classes`]: which size classes of the heap grow: what grows nowhere is not a leak, and what does decides what is
//!   armed.

pub mod allowance;
pub mod budget;
pub mod choice;
mod chunks;
pub mod classes;
pub mod costs;
pub mod exposure;
pub mod followers;
mod hit_cost;
pub mod latency;
mod mark;
mod occupant;
pub mod overrun;
pub mod owner;
mod parts;
mod rival;
mod shown;
pub mod sizes;
pub mod units;
mod unnoticed;

pub use allowance::Allowance;
pub use budget::Budget;
pub use classes::Classes;
pub use exposure::Exposures;
pub use followers::Followers;
pub use hit_cost::HitCost;
pub use units::Units;
