//! The steps of a build: what was done, how long it took, what it depended on, why it was done again.

use std::time::Instant;

use crate::pipeline::facts::Step;

/// What a step tells of itself when it is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Whether an earlier result served.
    pub cached: bool,
    /// What its result depends on, a line each: what it is, and its value or digest.
    pub inputs: Vec<String>,
}

impl Told {
    /// Of a step that is done in each build.
    pub fn nothing<T>(_: &T) -> Self {
        Told::default()
    }
}

/// Times steps, and compares them with those of the build before.
#[derive(Debug, Default)]
pub struct Steps {
    before: Vec<Step>,
    done: Vec<Step>,
}

impl Steps {
    /// After a build that did these.
    pub fn after(before: Vec<Step>) -> Self {
        Steps { before, done: vec![] }
    }

    /// Does a step. `told` says of its result what it depended on, and whether an earlier one served.
    ///
    /// # Errors
    /// Those of the step.
    pub fn run<T, E>(
        &mut self,
        name: impl Into<String>,
        told: impl FnOnce(&T) -> Told,
        step: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let name = name.into();
        let started = Instant::now();
        let result = step()?;
        let (seconds, Told { cached, inputs }) = (started.elapsed().as_secs_f64(), told(&result));
        let before = self.before.iter().find(|step| step.name == name);
        let because = if cached { differences(before, &inputs) } else { because(before, &inputs) };
        self.done.push(Step { name, seconds, cached, inputs, because });
        Ok(result)
    }

    /// All that was done, in order.
    pub fn into_done(self) -> Vec<Step> {
        self.done
    }
}

/// Inputs that the build before had otherwise.
fn differences(before: Option<&Step>, inputs: &[String]) -> Vec<String> {
    let Some(before) = before else { return vec![] };
    let gone = before.inputs.iter().filter(|line| !inputs.contains(line)).map(|line| format!("- {line}"));
    let new = inputs.iter().filter(|line| !before.inputs.contains(line)).map(|line| format!("+ {line}"));
    gone.chain(new).collect()
}

fn because(before: Option<&Step>, inputs: &[String]) -> Vec<String> {
    if before.is_none() {
        return vec!["the build before did not have it".to_owned()];
    }
    let changed = differences(before, inputs);
    match (changed.is_empty(), inputs.is_empty()) {
        (false, _) => changed,
        (true, true) => vec!["it is done in each build".to_owned()],
        (true, false) => {
            vec!["nothing changed that it depends on, but its result is no longer kept".to_owned()]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(steps: &mut Steps, inputs: &[&str], cached: bool) {
        let inputs: Vec<String> = inputs.iter().map(ToString::to_string).collect();
        steps.run("tree host", |()| Told { cached, inputs }, || Ok::<_, ()>(())).unwrap();
    }

    #[test]
    fn a_step_says_which_input_made_it_run() {
        let mut before = Vec::new();
        for (inputs, cached, because) in [
            (&["suite trixie", "package vim"][..], false, &["the build before did not have it"][..]),
            (&["suite trixie", "package vim"], true, &[]),
            (&["suite trixie", "package nano"], false, &["- package vim", "+ package nano"]),
            (
                &["suite trixie", "package nano"],
                false,
                &["nothing changed that it depends on, but its result is no longer kept"],
            ),
            // A plan made it, or a build of another recipe.
            (&["suite trixie", "package mg"], true, &["- package nano", "+ package mg"]),
            (&[], false, &["- suite trixie", "- package mg"]),
            (&[], false, &["it is done in each build"]),
        ] {
            let mut steps = Steps::after(before);
            step(&mut steps, inputs, cached);
            before = steps.into_done();
            assert_eq!(before[0].because, because, "{inputs:?}");
        }
    }
}
