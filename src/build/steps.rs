//! The steps of a build: what was done, how long it took, whether an earlier result served.

use std::time::Instant;

use super::facts::Step;

/// Times steps.
#[derive(Debug, Default)]
pub struct Steps {
    done: Vec<Step>,
}

impl Steps {
    /// Does a step. `cached` tells from its result whether an earlier one served.
    ///
    /// # Errors
    /// Those of the step.
    pub fn run<T, E>(
        &mut self,
        name: impl Into<String>,
        cached: impl FnOnce(&T) -> bool,
        step: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let name = name.into();
        let started = Instant::now();
        let result = step()?;
        let (seconds, cached) = (started.elapsed().as_secs_f64(), cached(&result));
        self.done.push(Step { name, seconds, cached });
        Ok(result)
    }

    /// All that was done, in order.
    pub fn into_done(self) -> Vec<Step> {
        self.done
    }
}
