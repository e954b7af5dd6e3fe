//! `imgfactory why STEP`.

use std::path::{Path, PathBuf};

use super::{Failure, Session, print};
use crate::pipeline::build_record::{BuildRecord, FILE, StepRecord};
use formats::report::Exit;

/// Lines of inputs that are shown for a step, unless all are wanted.
const SHOWN: usize = 12;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without a step, all are explained. Lines with `-` show an input as it was in the previous build, lines with `+` \
as it is now. Results of `plan` are cached too: a build after it uses them.

Example: imgfactory why tree host")]
pub(super) struct Args {
    /// The step, as a build lists it at its end
    step: Vec<String>,
    /// The output directory of the build [default: the only one in out/]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// List all inputs of the step, not only those that changed
    #[arg(long)]
    all: bool,
}

pub(super) fn run(args: Args, _: &Session) -> Result<Exit, Failure> {
    let out = match args.out {
        Some(out) => out,
        None => only_build(Path::new("out"))?,
    };
    let record = BuildRecord::read(&out)?;
    let wanted = args.step.join(" ");
    let steps: Vec<&StepRecord> =
        record.steps.iter().filter(|step| wanted.is_empty() || step.name == wanted).collect();
    if steps.is_empty() {
        let names: Vec<_> = record.steps.iter().map(|step| format!("`{}`", step.name)).collect();
        return Err(Failure::Usage(format!("no step `{wanted}`; the build has {}", names.join(", "))));
    }
    let all_changes = args.all || !wanted.is_empty();
    let texts: Vec<String> = steps.iter().map(|step| explain(step, all_changes, args.all)).collect();
    print(&texts.concat())?;
    Ok(Exit::Done)
}

fn explain(step: &StepRecord, all_changes: bool, all_inputs: bool) -> String {
    let StepRecord { name, seconds, cached, inputs, inputs_hash, found, because } = step;
    let mut text = match (cached, because.is_empty()) {
        (true, true) => format!("{name}: nothing changed; used the cached result, in {seconds:.1} s\n"),
        (true, false) => format!(
            "{name}: used a cached result, such as a plan's, in {seconds:.1} s; changed since the previous build:\n"
        ),
        (false, _) => format!("{name}: ran, in {seconds:.1} s\n"),
    };
    let shown = if all_changes { because.len() } else { SHOWN };
    because.iter().take(shown).for_each(|line| text.push_str(&format!("  {line}\n")));
    if because.len() > shown {
        text.push_str(&format!("  and {} more\n", because.len() - shown));
    }
    if all_inputs {
        inputs.lines().iter().for_each(|line| text.push_str(&format!("    {line}\n")));
        if !inputs_hash.is_empty() {
            text.push_str(&format!("    hash of the inputs: {inputs_hash}\n"));
        }
        found.lines().iter().for_each(|line| text.push_str(&format!("    found while it ran: {line}\n")));
    }
    text
}

fn only_build(out: &Path) -> Result<PathBuf, Failure> {
    let entries = std::fs::read_dir(out).into_iter().flatten().flatten();
    let mut builds: Vec<_> =
        entries.map(|entry| entry.path()).filter(|path| path.join(FILE).is_file()).collect();
    match (builds.pop(), builds.is_empty()) {
        (Some(build), true) => Ok(build),
        (None, _) => Err(Failure::Usage(format!(
            "{}/: contains no build; name its directory with --out",
            out.display()
        ))),
        (Some(_), false) => {
            Err(Failure::Usage(format!("{}/: contains several builds; choose one with --out", out.display())))
        }
    }
}
