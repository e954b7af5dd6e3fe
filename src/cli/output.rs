//! What commands print: results on standard output; progress and errors on standard error.

use std::env;
use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;

use super::{Global, When};
use crate::project::folder::LoadError;
use crate::sys::progress::{self, Progress};
use formats::report::{self, Exit};
use system::http::{HttpOptions, RedirectScope};
use system::output::print_error;

/// Why a command ends early.
#[derive(Debug)]
pub enum Failure {
    /// It was called wrongly: exit code 2. The text says what is wrong and what would be right.
    Usage(String),
    /// It could not do its work: exit code 1.
    Failed(Box<dyn Error + Send + Sync>),
}

/// So that `?` works on every error. `Failure` itself implements no `Error`, which would conflict with this.
impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Failed(Box::new(error))
    }
}

impl Failure {
    /// What failed at a place: a file, a directory, a URL.
    pub(super) fn at(place: impl Into<PathBuf>, error: impl Error + Send + Sync + 'static) -> Self {
        In { place: place.into(), error }.into()
    }
}

/// What is wrong somewhere, with the place before it.
#[derive(Debug)]
pub(super) struct In<E> {
    /// A file, a directory, a URL.
    pub place: PathBuf,
    /// Shown after the place, and its causes below it.
    pub error: E,
}

impl<E: fmt::Display> fmt::Display for In<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place.display(), self.error)
    }
}

impl<E: std::error::Error> std::error::Error for In<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// The global options, as they are meant.
pub struct Session {
    /// Where to show progress.
    pub progress: Arc<dyn Progress>,
    /// Whether standard error takes colours.
    pub color: bool,
    /// Whether only errors and results are wanted.
    pub quiet: bool,
    /// How web servers are reached.
    pub web: HttpOptions,
}

impl Session {
    pub(super) fn new(global: &Global) -> Self {
        let color = match global.color {
            When::Always => true,
            When::Never => false,
            When::Auto => {
                let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                io::stderr().is_terminal() && !unwanted
            }
        };
        let progress = progress::for_standard_error(global.quiet);
        let level = match (global.quiet, global.verbose) {
            (true, _) => log::LevelFilter::Error,
            (false, 0) => log::LevelFilter::Warn,
            (false, 1) => log::LevelFilter::Info,
            (false, _) => log::LevelFilter::Debug,
        };
        // There is one session a process; were there a second, the first logger would do.
        if log::set_boxed_logger(Box::new(Logger(progress.clone(), global.quiet))).is_ok() {
            log::set_max_level(level);
        }
        let web = HttpOptions {
            user_agent: concat!("imgfactory/", env!("CARGO_PKG_VERSION")),
            proxy: None,
            ca: global.ca.clone(),
            system_authorities: true,
            redirects: RedirectScope::AnyHost,
        };
        Session { progress, color, quiet: global.quiet, web }
    }

    /// Prints why a command ended, and gives the exit code for it.
    pub(super) fn fail(&self, failure: &Failure) -> Exit {
        let (text, exit) = match failure {
            Failure::Usage(text) => (format!("error: {text}"), Exit::Usage),
            Failure::Failed(error) => match error.downcast_ref() {
                // Faults of a recipe are several errors, and have lines of the recipe to show.
                Some(LoadError::Faulty(findings)) => (findings.render(self.color), Exit::Failed),
                _ => (report::report(error.as_ref()), Exit::Failed),
            },
        };
        print_error(&self.painted(&text));
        exit
    }

    /// Prints an error that is not the last.
    pub(super) fn show(&self, error: &(dyn Error + 'static)) {
        print_error(&self.painted(&report::report(error)));
    }

    /// Makes the first word of an error red.
    fn painted(&self, text: &str) -> String {
        match text.strip_prefix("error:") {
            Some(rest) if self.color => format!("\x1b[1;31merror\x1b[0m:{rest}"),
            _ => text.to_owned(),
        }
    }
}

/// Puts log lines between the progress bars.
struct Logger(Arc<dyn Progress>, bool);

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        // Of libraries only warnings are shown.
        metadata.target().starts_with("imgfactory") || metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record) {
        if self.enabled(record.metadata()) {
            let line = match record.level() {
                log::Level::Error => format!("error: {}", record.args()),
                log::Level::Warn => format!("warning: {}", record.args()),
                _ => record.args().to_string(),
            };
            // A silent progress would swallow errors too.
            if self.1 { print_error(&line) } else { self.0.say(&line) }
        }
    }

    fn flush(&self) {}
}
