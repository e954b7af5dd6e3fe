//! `imgfactory --help`: the commands grouped by what a user wants to do.

use std::fmt::Write as _;

use clap::builder::{StyledStr, Styles};
use clap::{Command, CommandFactory};

use super::Arguments;

/// Every command is in one group. A command with subcommands may be listed by them, as `mirror` is.
const GROUPS: [(&str, &[&str]); 7] = [
    ("Build", &["build", "plan", "check", "lock", "keygen"]),
    ("Look", &["why", "diff", "releases"]),
    ("Boot", &["run", "test", "profile", "iso", "serve"]),
    ("Publish", &["publish", "rollback", "refresh", "rotate", "gc"]),
    ("Mirror", &["mirror pull", "mirror verify", "mirror list"]),
    ("Low level", &["image", "index"]),
    ("Setup", &["doctor", "schema", "completions"]),
];

/// The commands and options, with this help. clap itself knows groups of options only, not of commands.
pub(super) fn command() -> Command {
    let command = Arguments::command();
    let mut help = StyledStr::new();
    let styles = command.get_styles().clone();
    let _ =
        write!(help, "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n{}", groups(&command, &styles));
    let header = styles.get_header();
    let _ = write!(help, "\n{header}Options:{header:#}\n{{options}}\n\n");
    let _ = write!(help, "`imgfactory COMMAND --help` lists the options of a command.");
    command.help_template(help)
}

fn groups(command: &Command, styles: &Styles) -> String {
    let (header, literal) = (styles.get_header(), styles.get_literal());
    let width = GROUPS.iter().flat_map(|(_, names)| *names).map(|name| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (group, names) in GROUPS {
        let _ = write!(text, "\n{header}{group}:{header:#}\n");
        for name in names {
            let about = find(command, name).and_then(Command::get_about).map(ToString::to_string);
            let _ = writeln!(text, "  {literal}{name:width$}{literal:#}  {}", about.unwrap_or_default());
        }
    }
    text
}

/// The command with this path of names, such as `mirror pull`.
fn find<'c>(command: &'c Command, path: &str) -> Option<&'c Command> {
    path.split(' ').try_fold(command, |command, name| command.find_subcommand(name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The command lines of all commands: those with subcommands by each of them.
    fn every(command: &Command, listed: &BTreeSet<String>) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for top in command.get_subcommands() {
            let subs = top.get_subcommands().map(|sub| format!("{} {}", top.get_name(), sub.get_name()));
            let subs: BTreeSet<String> = subs.collect();
            if subs.is_disjoint(listed) {
                all.insert(top.get_name().to_owned());
            } else {
                all.extend(subs);
            }
        }
        all
    }

    #[test]
    fn every_command_is_in_exactly_one_group() {
        let names: Vec<String> =
            GROUPS.iter().flat_map(|(_, names)| *names).map(|name| (*name).to_owned()).collect();
        let listed: BTreeSet<String> = names.iter().cloned().collect();
        assert_eq!(listed.len(), names.len(), "a command is listed twice");
        assert_eq!(listed, every(&Arguments::command(), &listed));
    }

    #[test]
    fn every_line_fits_a_terminal_of_80_columns() {
        let plain = Styles::plain();
        for line in groups(&Arguments::command(), &plain).lines() {
            assert!(line.len() <= 80, "{} columns: {line}", line.len());
        }
    }
}
