//! Runs the steps of a build: what each depends on, how long it took, whether an earlier result was used, and why it ran.

use std::fmt::Display;
use std::time::Instant;

use crate::pipeline::build_record::StepRecord;
use crate::pipeline::step_inputs::StepInputs;
use formats::digest::Sha256;

/// Runs steps, and compares their inputs with those of the previous build.
#[derive(Debug, Default)]
pub struct StepRunner {
    previous: Vec<StepRecord>,
    done: Vec<StepRecord>,
}

/// A step whose inputs are being gathered. Its time counts from here.
#[derive(Debug)]
pub struct StartedStep<'r> {
    runner: &'r mut StepRunner,
    name: String,
    started: Instant,
}

/// A step that runs: its key, and what it reports.
#[derive(Debug)]
pub struct StepRun {
    key: Sha256,
    cached: Option<bool>,
    found: StepInputs,
}

impl StepRun {
    /// The hash of the step's inputs, by which its result is cached.
    pub fn key(&self) -> Sha256 {
        self.key
    }

    /// Reports whether an earlier result was used. A step that does not report it has no results that are kept.
    pub fn used_earlier_result(&mut self, used: bool) {
        self.cached = Some(used);
    }

    /// Reports something that was not known before the step ran. Later steps may have it as an input.
    pub fn found(&mut self, name: impl Into<String>, value: impl Display) {
        self.found.add(name, value);
    }
}

impl StepRunner {
    /// A runner for the build after one with these steps.
    pub fn after(previous: Vec<StepRecord>) -> Self {
        StepRunner { previous, done: vec![] }
    }

    /// Starts the clock of a step whose inputs take some time to gather.
    pub fn start(&mut self, name: impl Into<String>) -> StartedStep<'_> {
        StartedStep { runner: self, name: name.into(), started: Instant::now() }
    }

    /// Runs a step that depends on `inputs`.
    ///
    /// # Errors
    /// Those of the step.
    pub fn run<T, E>(
        &mut self,
        name: impl Into<String>,
        inputs: StepInputs,
        step: impl FnOnce(&mut StepRun) -> Result<T, E>,
    ) -> Result<T, E> {
        self.start(name).run(inputs, step)
    }

    /// What a step of this build depended on, as one digest: for a step that uses its result.
    pub fn key_of(&self, name: &str) -> Option<&str> {
        self.done.iter().find(|step| step.name == name).map(|step| step.inputs_hash.as_str())
    }

    /// What a step of this build reported.
    pub fn found_by(&self, name: &str) -> Option<&StepInputs> {
        self.done.iter().find(|step| step.name == name).map(|step| &step.found)
    }

    /// The record of all steps, in order.
    pub fn into_records(self) -> Vec<StepRecord> {
        self.done
    }
}

impl StartedStep<'_> {
    /// Runs the step, which depends on `inputs`.
    ///
    /// # Errors
    /// Those of the step.
    pub fn run<T, E>(
        self,
        inputs: StepInputs,
        step: impl FnOnce(&mut StepRun) -> Result<T, E>,
    ) -> Result<T, E> {
        let StartedStep { runner, name, started } = self;
        let key = inputs.hash();
        let mut run = StepRun { key, cached: None, found: StepInputs::new() };
        let result = step(&mut run)?;
        let StepRun { cached, found, .. } = run;
        let previous = runner.previous.iter().find(|step| step.name == name);
        runner.done.push(StepRecord {
            because: reasons(previous, &inputs, cached),
            seconds: started.elapsed().as_secs_f64(),
            cached: cached == Some(true),
            inputs_hash: key.to_string(),
            name,
            inputs,
            found,
        });
        Ok(result)
    }
}

/// Why a step ran, or what changed though an earlier result was used.
fn reasons(previous: Option<&StepRecord>, inputs: &StepInputs, cached: Option<bool>) -> Vec<String> {
    let used = cached == Some(true);
    let Some(previous) = previous else {
        return if used { vec![] } else { vec!["the previous build did not have this step".to_owned()] };
    };
    if previous.inputs.is_empty() && !inputs.is_empty() && !used {
        return vec!["the previous build did not record what it depends on".to_owned()];
    }
    let changes = inputs.changes_since(&previous.inputs);
    match cached {
        _ if !changes.is_empty() => changes,
        Some(true) => vec![],
        Some(false) => {
            vec!["nothing changed that it depends on, but its result is no longer kept".to_owned()]
        }
        None => vec!["nothing changed that it depends on; this step runs in each build".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_says_which_input_made_it_run() {
        const TRIXIE: (&str, &str) = ("suite", "trixie");
        let lost = "nothing changed that it depends on, but its result is no longer kept";
        let each = "nothing changed that it depends on; this step runs in each build";
        let mut previous = Vec::new();
        for (inputs, cached, because) in [
            (
                &[TRIXIE, ("package vim", "")][..],
                Some(false),
                &["the previous build did not have this step"][..],
            ),
            (&[TRIXIE, ("package vim", "")], Some(true), &[]),
            (&[TRIXIE, ("package nano", "")], Some(false), &["- package vim", "+ package nano"]),
            (&[TRIXIE, ("package nano", "")], Some(false), &[lost]),
            // A plan made it, or a build of another recipe.
            (&[TRIXIE, ("package mg", "")], Some(true), &["- package nano", "+ package mg"]),
            (&[("suite", "forky")], None, &["- suite trixie", "- package mg", "+ suite forky"]),
            (&[("suite", "forky")], None, &[each]),
            (&[], None, &["- suite forky"]),
            (&[TRIXIE], None, &["the previous build did not record what it depends on"]),
        ] {
            let inputs: StepInputs = inputs.iter().copied().collect();
            let mut runner = StepRunner::after(previous);
            let ran = runner.run("tree host", inputs.clone(), |run| {
                assert_eq!(run.key(), inputs.hash());
                cached.into_iter().for_each(|cached| run.used_earlier_result(cached));
                run.found("epoch", 7);
                Ok::<_, ()>(1)
            });
            assert_eq!(ran, Ok(1));
            assert_eq!(runner.key_of("tree host").unwrap(), inputs.hash().to_string());
            assert_eq!(runner.found_by("tree host").unwrap().get("epoch"), Some("7"));
            previous = runner.into_records();
            assert_eq!(previous[0].because, because, "{inputs:?}");
        }
    }

    #[test]
    fn a_step_that_fails_leaves_no_record() {
        let mut runner = StepRunner::default();
        assert_eq!(runner.run("iso", StepInputs::new(), |_| Err::<(), _>("no xorriso")), Err("no xorriso"));
        assert_eq!(runner.into_records(), []);
    }
}
