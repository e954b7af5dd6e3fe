//! Templates: texts with `{{ values }}` and `{% if %}`, from the project's `templates/` or built in.
//!
//! The engine is minijinja with strict rules: a missing value is an error, never an empty string.
//! Nothing is escaped. A line that holds only a `{% %}` tag leaves no empty line behind. Comments are
//! `{## ... ##}` and not `{# ... #}`, which shell scripts are full of: `${#list}`.

use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};

use crate::yaml::findings::{listed, nearest};

pub use minijinja::context;

/// A template's path and its text.
macro_rules! built_in {
    ($name:literal) => {
        ($name, include_str!(concat!("../templates/", $name)))
    };
}

/// The templates that come with the program, by their path below `templates/`. Sorted.
const BUILT_IN: &[(&str, &str)] = &[
    built_in!("grub.cfg"),
    built_in!("guest/bridge"),
    built_in!("guest/guest"),
    built_in!("guest/guest.conf"),
    built_in!("guest/imgfactory-bridge.service"),
    built_in!("guest/imgfactory-chosen.service"),
    built_in!("guest/imgfactory-consoles.service"),
    built_in!("guest/imgfactory-guest@.service"),
    built_in!("guest/imgfactory-image@.service"),
    built_in!("guest/imgfactory-recover@.service"),
    built_in!("guest/watch.desktop"),
    built_in!("guest/xen.service.conf"),
    built_in!("guest/xl.cfg"),
    built_in!("miniroot/init"),
    built_in!("miniroot/lib/client.sh"),
    built_in!("miniroot/lib/cmdline.sh"),
    built_in!("miniroot/lib/console.sh"),
    built_in!("miniroot/lib/hardware.sh"),
    built_in!("miniroot/lib/lease"),
    built_in!("miniroot/lib/network.sh"),
    built_in!("miniroot/lib/rescue.sh"),
    built_in!("miniroot/lib/root.sh"),
    built_in!("miniroot/settings"),
];

/// Why a template gives no text. Its path comes first.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// There is none of that name.
    #[error("templates/{name}: no such template in the project or built in{hint}")]
    Missing {
        /// Its path below `templates/`.
        name: String,
        /// `; did you mean ...?`, or nothing.
        hint: String,
    },
    /// It uses a value that was not given.
    #[error("{name}:{line}: `{expression}` is not known here; known: {known}")]
    Undefined {
        /// What people call it: a path.
        name: String,
        /// The line, from 1.
        line: usize,
        /// What it asks for.
        expression: String,
        /// What it was given.
        known: String,
    },
    /// It is no template, or its tags go wrong.
    #[error("{name}:{line}: {what}")]
    Wrong {
        /// What people call it: a path.
        name: String,
        /// The line, from 1.
        line: usize,
        what: String,
    },
    /// The project has it, and nothing asks for it.
    #[error("templates/{name}: nothing uses a template of this name{hint}")]
    Unused {
        /// Its path below `templates/`.
        name: String,
        /// `; did you mean ...?`, or the names that are used.
        hint: String,
    },
    /// It is there and can't be read.
    #[error("templates/{name}: can't read")]
    Read {
        /// Its path below `templates/`.
        name: String,
        source: io::Error,
    },
}

/// Gives the project's own template of a name, if there is one.
type TemplateLoader<'l> = dyn Fn(&str) -> io::Result<Option<String>> + 'l;

/// Finds templates and renders them.
pub struct Templates<'l> {
    load: Box<TemplateLoader<'l>>,
}

impl<'l> Templates<'l> {
    /// `load` gives the project's own template of a name, or `None`; then a built-in one is taken.
    pub fn new(load: impl Fn(&str) -> io::Result<Option<String>> + 'l) -> Self {
        Templates { load: Box::new(load) }
    }

    /// Only what is built in.
    pub fn built_in() -> Templates<'static> {
        Templates::new(|_| Ok(None))
    }

    /// The text of a template before anything is put in.
    ///
    /// # Errors
    /// [`TemplateError::Missing`], [`TemplateError::Read`].
    pub fn source(&self, name: &str) -> Result<String, TemplateError> {
        let own = (self.load)(name).map_err(|source| TemplateError::Read { name: name.into(), source })?;
        let built_in =
            || BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned());
        own.or_else(built_in).ok_or_else(|| {
            let meant = nearest(name, names());
            let hint = meant.map_or(String::new(), |meant| format!("; did you mean `{meant}`?"));
            TemplateError::Missing { name: name.into(), hint }
        })
    }

    /// Puts the values of `context`, made with [`context!`], into the template `name`: its path below
    /// `templates/`. Other templates can't be included.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn render(&self, name: &str, context: Value) -> Result<String, TemplateError> {
        render_text(&format!("templates/{name}"), &self.source(name)?, context)
    }
}

/// Renders a text that is a template by itself. `name` is what people call it: a path.
///
/// # Errors
/// [`TemplateError::Undefined`], [`TemplateError::Wrong`].
pub fn render_text(name: &str, text: &str, context: Value) -> Result<String, TemplateError> {
    let environment = environment();
    let template =
        environment.template_from_named_str(name, text).map_err(|error| worded(name, &error, &[]))?;
    let known: Vec<String> = match context.kind() {
        ValueKind::Map => context.try_iter().into_iter().flatten().map(|key| key.to_string()).collect(),
        _ => Vec::new(),
    };
    template.render(context).map_err(|error| worded(name, &error, &known))
}

/// The paths of the built-in templates, below `templates/`.
pub fn names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|(name, _)| *name)
}

/// Whether a text is a template, without values for it.
///
/// # Errors
/// [`TemplateError::Wrong`].
pub fn check_text(name: &str, text: &str) -> Result<(), TemplateError> {
    environment().template_from_named_str(name, text).map_err(|error| worded(name, &error, &[])).map(|_| ())
}

/// Checks a template of a project by itself: that it takes the place of a built-in one, and is a template.
///
/// # Errors
/// [`TemplateError::Unused`], [`TemplateError::Wrong`].
pub fn check_own(name: &str, text: &str) -> Result<(), TemplateError> {
    if names().any(|known| known == name) {
        return check_text(&format!("templates/{name}"), text);
    }
    let hint = match nearest(name, names()) {
        Some(meant) => format!("; did you mean `{meant}`?"),
        None => format!("; these are used: {}", listed(names())),
    };
    Err(TemplateError::Unused { name: name.into(), hint })
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_debug(true);
    let syntax = SyntaxConfig::builder()
        .comment_delimiters("{##", "##}")
        .trim_blocks(true)
        .lstrip_blocks(true)
        .keep_trailing_newline(true)
        .build()
        .expect("these delimiters differ from each other and from the default ones");
    environment.set_syntax(syntax);
    environment
}

/// An error of the engine in our words.
fn worded(name: &str, error: &Error, known: &[String]) -> TemplateError {
    let (name, line) = (name.to_owned(), error.line().unwrap_or(1));
    let place = error.template_source().zip(error.range()).and_then(|(source, range)| source.get(range));
    match (error.kind(), place) {
        (ErrorKind::UndefinedError, Some(expression)) => {
            let mut known: Vec<&str> = known.iter().map(String::as_str).collect();
            known.sort_unstable();
            let expression = expression.trim().to_owned();
            TemplateError::Undefined { name, line, expression, known: listed(known) }
        }
        (kind, _) => {
            let what = error.detail().map_or_else(|| kind.to_string(), |detail| format!("{kind}: {detail}"));
            TemplateError::Wrong { name, line, what }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own<'a>(name: &'a str, text: &'a str) -> Templates<'a> {
        Templates::new(move |asked| Ok((asked == name).then(|| text.to_owned())))
    }

    #[test]
    fn values_are_put_in_as_they_are_and_tags_leave_no_empty_lines() {
        let text = "a={{ a }}\n  {% if list %}\n{% for x in list %}\n- {{ x }}\n{% endfor %}\n{% endif %}\n\
                    echo ${#list} {## gone ##}end\n";
        let values = context! { a => "<&'\">", list => vec![1, 2] };
        assert_eq!(own("x", text).render("x", values).unwrap(), "a=<&'\">\n- 1\n- 2\necho ${#list} end\n");
    }

    #[test]
    fn what_goes_wrong_has_template_line_and_reason() {
        let values = || context! { entry => "xen", timeout => 3, menu => context! { a => 1 } };
        for (text, said) in [
            (
                "\n{{ entri }}",
                "templates/grub.cfg:2: `entri` is not known here; known: `entry`, `menu`, `timeout`",
            ),
            (
                "{{ menu.b }}",
                "templates/grub.cfg:1: `menu.b` is not known here; known: `entry`, `menu`, `timeout`",
            ),
            (
                "{% if nothing %}x{% endif %}",
                "templates/grub.cfg:1: `nothing` is not known here; known: `entry`, `menu`, `timeout`",
            ),
            (
                "\n\n{% if entry %}",
                "templates/grub.cfg:3: syntax error: unexpected end of input, expected end of block",
            ),
            ("{{ entry | shout }}", "templates/grub.cfg:1: unknown filter: filter shout is unknown"),
        ] {
            let error = own("grub.cfg", text).render("grub.cfg", values()).unwrap_err();
            assert_eq!(error.to_string(), said, "{text:?}");
        }
        assert_eq!(
            own("grub.cfg", "").render("grub.cf", values()).unwrap_err().to_string(),
            "templates/grub.cf: no such template in the project or built in; did you mean `grub.cfg`?"
        );
    }

    #[test]
    fn an_unreadable_template_is_not_replaced_by_the_built_in_one() {
        let templates = Templates::new(|_| Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(
            formats::report::report(&templates.render("x", context! {}).unwrap_err()),
            "error: templates/x: can't read\n  caused by: permission denied"
        );
    }

    #[test]
    fn a_template_of_a_project_takes_the_place_of_another() {
        assert!(check_own("grub.cfg", "{% if x %}{% endif %}").is_ok());
        for (name, text, said) in [
            ("grub.cfg", "\n{% if %}", "templates/grub.cfg:2: syntax error: unexpected end of block"),
            (
                "grubb.cfg",
                "",
                "templates/grubb.cfg: nothing uses a template of this name; did you mean `grub.cfg`?",
            ),
        ] {
            assert_eq!(check_own(name, text).unwrap_err().to_string(), said);
        }
    }

    #[test]
    fn built_in_templates_are_sorted_and_well_formed() {
        assert!(BUILT_IN.is_sorted());
        for (name, text) in BUILT_IN {
            check_text(name, text).unwrap();
        }
    }
}
