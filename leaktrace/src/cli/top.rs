//! Arguments of `leaktrace top`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{FilterArgs, HowArgs, duration};

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// A recording that `run --record` or `record` made or is making; needs no root
    #[arg(required_unless_present = "pid", conflicts_with_all = ["pid", "HowArgs", "top", "record"])]
    pub(crate) file: Option<PathBuf>,
    /// The process to trace
    #[arg(long)]
    pub(crate) pid: Option<u32>,
    #[command(flatten)]
    pub(crate) how: HowArgs,
    /// How many sites the report at the end shows
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) top: usize,
    /// Record to a file, for `report`, `diff`, `export` and `top`
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// Of a recording: count only blocks of its last TIME (10m)
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "pid")]
    pub(crate) since: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Cli, Command};

    fn parse(arguments: &[&str]) -> Result<(), clap::Error> {
        let cli = Cli::try_parse_from(["leaktrace", "top"].iter().chain(arguments))?;
        assert!(matches!(cli.command, Command::Top(_)));
        Ok(())
    }

    #[test]
    fn a_process_or_a_recording() {
        for good in [
            &["--pid", "7"][..],
            &["a"],
            &["a", "--since", "10m", "--domain", "obj"],
            &["--pid", "7", "--interval", "1s"],
        ] {
            assert!(parse(good).is_ok(), "{good:?}");
        }
        let bad = [
            &[][..],
            &["a", "--pid", "7"],
            &["--pid", "7", "--since", "1m"],
            &["a", "--duration", "1s"],
            &["a", "--record", "b"],
        ];
        for bad in bad {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
