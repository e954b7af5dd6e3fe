//! Templates -> the scripts of a miniroot.

use super::File;
use crate::templates::{TemplateError, Templates, context};

/// Template below `templates/miniroot/`, path in the miniroot, mode.
const SCRIPTS: &[(&str, &str, u16)] = &[
    ("init", "init", 0o755),
    ("settings", "etc/imgfactory/settings", 0o644),
    ("lib/client.sh", "lib/imgfactory/client.sh", 0o644),
    ("lib/cmdline.sh", "lib/imgfactory/cmdline.sh", 0o644),
    ("lib/console.sh", "lib/imgfactory/console.sh", 0o644),
    ("lib/hardware.sh", "lib/imgfactory/hardware.sh", 0o644),
    ("lib/lease", "lib/imgfactory/lease", 0o755),
    ("lib/network.sh", "lib/imgfactory/network.sh", 0o644),
    ("lib/rescue.sh", "lib/imgfactory/rescue.sh", 0o644),
    ("lib/root.sh", "lib/imgfactory/root.sh", 0o644),
];

/// Values for the scripts; the templates see it under these names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScriptValues<'a> {
    pub name: &'a str,
    /// Name of the image with the root file system.
    pub image: &'a str,
    /// When the image was made, in seconds since 1970: the clock is never set to less.
    pub built: i64,
    /// Block device with the root file system; `None`: the client fetches it.
    pub disk: Option<&'a str>,
}

/// Renders /init, what it sources, and its settings.
///
/// # Errors
/// [`TemplateError`].
pub fn scripts(templates: &Templates, settings: &ScriptValues) -> Result<Vec<File>, TemplateError> {
    let ScriptValues { name, image, built, disk } = *settings;
    let values = context! { name, image, built, disk => disk.unwrap_or_default() };
    SCRIPTS
        .iter()
        .map(|&(template, path, mode)| {
            let text = templates.render(&format!("miniroot/{template}"), values.clone())?;
            Ok(File { path: path.into(), mode, bytes: text.into_bytes().into() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_reach_the_scripts() {
        let settings =
            ScriptValues { name: "demo", image: "guest", built: 1_790_000_000, disk: Some("/dev/xvda") };
        let files = scripts(&Templates::built_in(), &settings).unwrap();
        let text = |path: &str| {
            let file = files.iter().find(|file| file.path == path).expect("it is among the scripts");
            String::from_utf8(file.bytes.to_vec()).unwrap()
        };
        let settings = text("etc/imgfactory/settings");
        for line in ["NAME='demo'", "IMAGE='guest'", "BUILT=1790000000", "DISK='/dev/xvda'"] {
            assert!(settings.lines().any(|found| found == line), "{line} in\n{settings}");
        }
        assert!(text("init").starts_with("#!/bin/sh\n"));
        assert_eq!(files.iter().find(|file| file.path == "init").unwrap().mode, 0o755);
    }
}
