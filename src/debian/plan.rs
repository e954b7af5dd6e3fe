//! How a tree is made: mmdebstrap's arguments, the files it needs, all that it depends on.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::Path;

use formats::digest::Sha256;

use super::{AptSource, InRelease, PackageSet, Script, SetError, word};

/// How mmdebstrap becomes root in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MmdebstrapMode {
    Root,
    /// In a user namespace, as an ordinary user with ids in /etc/subuid and /etc/subgid.
    Unshare,
}

impl MmdebstrapMode {
    fn argument(self) -> &'static str {
        match self {
            MmdebstrapMode::Root => "--mode=root",
            MmdebstrapMode::Unshare => "--mode=unshare",
        }
    }
}

/// Everything that decides what is in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreePlan {
    set: PackageSet,
    sources: Vec<(AptSource, InRelease)>,
    epoch: i64,
}

/// A file for mmdebstrap, to be written into one directory that its hooks can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreePlanFile {
    /// Its name in the directory.
    pub name: String,
    pub bytes: Vec<u8>,
    /// Whether it is to be run.
    pub executable: bool,
}

/// Names of the files.
const APT_CONF: &str = "apt.conf";
const CHECK: &str = "check-archives";
const FINISH: &str = "finish";

/// Changes when the way trees are made does, so that none made the old way is taken from a cache.
const GENERATION: u32 = 1;

impl TreePlan {
    /// A plan for `set` from `sources`, each with its InRelease as it is now. `epoch` is SOURCE_DATE_EPOCH,
    /// seconds since 1970; without one it is the date of the newest InRelease.
    ///
    /// # Errors
    /// [`SetError::Word`] for the variant or a package that can't be one.
    pub fn new(
        set: PackageSet,
        sources: Vec<(AptSource, InRelease)>,
        epoch: Option<i64>,
    ) -> Result<Self, SetError> {
        word("a variant", &set.variant)?;
        for package in &set.packages {
            word("a package", package)?;
        }
        let newest = sources.iter().map(|(_, inrelease)| inrelease.date).max();
        Ok(TreePlan { epoch: epoch.or(newest).unwrap_or(0), set, sources })
    }

    /// No file of the tree gets a later time; seconds since 1970.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Date of the newest InRelease, seconds since 1970.
    pub fn newest(&self) -> i64 {
        self.sources.iter().map(|(_, inrelease)| inrelease.date).max().unwrap_or(self.epoch)
    }

    /// All that a tree depends on: names and values, in order. The mode is not among them, nor are this machine's
    /// options for apt.
    pub fn inputs(&self) -> Vec<(String, String)> {
        let PackageSet { suite, variant, components: _, sources: _, packages, apt_options, scripts } =
            &self.set;
        let mut inputs = vec![
            ("generation".to_owned(), GENERATION.to_string()),
            ("suite".to_owned(), suite.clone()),
            ("variant".to_owned(), variant.clone()),
            ("epoch".to_owned(), self.epoch.to_string()),
            ("finish script".to_owned(), Sha256::of(FINISH_SCRIPT.as_bytes()).to_string()),
        ];
        let sources = self.sources.iter();
        inputs.extend(sources.map(|(source, inrelease)| (source.to_string(), inrelease.sha256.to_string())));
        inputs.extend(packages.iter().map(|package| (format!("package {package}"), String::new())));
        inputs.extend(apt_options.iter().map(|option| (format!("apt option {option}"), String::new())));
        let script =
            |script: &Script| (format!("script {}", script.name), Sha256::of(&script.text).to_string());
        inputs.extend(scripts.iter().map(script));
        inputs
    }

    /// The files that [`TreePlan::arguments`] names. `host_options`: what apt needs to reach the archives from
    /// this machine, in the form of apt.conf; nothing of it stays in the tree.
    pub fn files(&self, host_options: &str) -> Vec<TreePlanFile> {
        let mut apt_conf = host_options.to_owned();
        for option in &self.set.apt_options {
            let _ = writeln!(apt_conf, "{};", option.trim_end_matches(';'));
        }
        let mut files = vec![
            TreePlanFile { name: APT_CONF.into(), bytes: apt_conf.into(), executable: false },
            TreePlanFile { name: CHECK.into(), bytes: self.check_script().into(), executable: true },
            TreePlanFile { name: FINISH.into(), bytes: FINISH_SCRIPT.into(), executable: true },
        ];
        for (index, script) in self.set.scripts.iter().enumerate() {
            let (name, bytes) = (script_file(index), script.text.clone());
            files.push(TreePlanFile { name, bytes, executable: true });
        }
        files
    }

    /// mmdebstrap's arguments, with the files of [`TreePlan::files`] in `dir`. The archive comes out of its
    /// standard output.
    pub fn arguments(&self, mode: MmdebstrapMode, dir: &Path) -> Vec<OsString> {
        let with_path = |option: &str, name: &str| {
            let mut argument = OsString::from(option);
            argument.push(dir.join(name));
            argument
        };
        let set = &self.set;
        let mut arguments: Vec<OsString> = vec![
            mode.argument().into(),
            format!("--variant={}", set.variant).into(),
            "--architectures=amd64".into(),
            "--format=tar".into(),
            with_path("--aptopt=", APT_CONF),
            with_path("--extract-hook=", CHECK),
        ];
        arguments.extend(set.packages.iter().map(|package| format!("--include={package}").into()));
        // Where packages are only extracted, there is no time later than that.
        let when = if set.variant == "extract" { "--extract-hook=" } else { "--customize-hook=" };
        arguments.extend((0..set.scripts.len()).map(|index| with_path(when, &script_file(index))));
        arguments.push(with_path(when, FINISH));
        arguments.push(set.suite.clone().into());
        arguments.push("-".into());
        arguments.extend(self.sources.iter().map(|(source, _)| source.to_string().into()));
        arguments
    }

    /// The environment that decides what packages do when they are installed.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("SOURCE_DATE_EPOCH", self.epoch.to_string()),
            ("TZ", "UTC".into()),
            ("LC_ALL", "C.UTF-8".into()),
            // The kernel's postinst makes no initrd then: ours is the miniroot.
            ("INITRD", "No".into()),
        ]
    }

    /// Fails when apt did not get the InRelease files that this plan is about: then the archive has changed in
    /// between, and the tree would have the wrong name.
    fn check_script(&self) -> String {
        let mut script =
            String::from("#!/bin/sh\nset -eu\nfor file in \"$1\"/var/lib/apt/lists/*_InRelease; do\n");
        script.push_str("    set -- \"$1\" $(sha256sum < \"$file\")\n    case $2 in\n");
        for (_, inrelease) in &self.sources {
            let _ = writeln!(script, "    {}) ;;", inrelease.sha256);
        }
        script.push_str(
            "    *) echo \"the archive of ${file##*/} has changed since the build began: start again\" >&2; exit 1 ;;\n",
        );
        script.push_str("    esac\ndone\n");
        script
    }
}

/// Run last. apt's options were for this machine, and so are passwords for mirrors. Font caches hold the times of the font directories, which
/// later become SOURCE_DATE_EPOCH; fc-cache itself discards what it makes while that variable is set.
const FINISH_SCRIPT: &str = r#"#!/bin/sh
set -eu
rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap"
if [ -f "$1/etc/apt/sources.list" ]; then
    sed -i -E 's#(://)[^/@ ]*@#\1#' "$1/etc/apt/sources.list"
fi
if [ -x "$1/usr/bin/fc-cache" ]; then
    for dir in "$1/usr/share/fonts" "$1/usr/local/share/fonts"; do
        [ ! -d "$dir" ] || find "$dir" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    done
    rm -f "$1"/var/cache/fontconfig/*.cache-*
    env -u SOURCE_DATE_EPOCH chroot "$1" fc-cache -s
fi
"#;

fn script_file(index: usize) -> String {
    format!("script-{index:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debian::{ArchiveMirrors, tests::set};

    fn plan(change: impl FnOnce(&mut PackageSet), date: i64, epoch: Option<i64>) -> TreePlan {
        let mut set = set();
        change(&mut set);
        let mirrors = ArchiveMirrors::from_option("http://mirror.example/debian").unwrap();
        let sources = set.sources(&mirrors).unwrap().into_iter().enumerate().map(|(index, source)| {
            let date = date - index as i64;
            let sha256 = format!("{:064x}", date + 2 * index as i64).parse().unwrap();
            (source, InRelease { date, sha256 })
        });
        let sources = sources.collect();
        TreePlan::new(set, sources, epoch).unwrap()
    }

    fn script(text: &str) -> Script {
        Script { name: "scripts/a.sh".into(), text: text.into() }
    }

    #[test]
    fn arguments_are_those_of_mmdebstrap() {
        let plan = plan(|set| set.scripts.push(script("#!/bin/sh\n")), 1000, None);
        let arguments = plan.arguments(MmdebstrapMode::Unshare, Path::new("/scratch"));
        let shown: Vec<_> = arguments.iter().map(|argument| argument.to_str().unwrap()).collect();
        assert_eq!(
            shown,
            [
                "--mode=unshare",
                "--variant=minbase",
                "--architectures=amd64",
                "--format=tar",
                "--aptopt=/scratch/apt.conf",
                "--extract-hook=/scratch/check-archives",
                "--include=systemd-sysv",
                "--include=udev",
                "--customize-hook=/scratch/script-00",
                "--customize-hook=/scratch/finish",
                "trixie",
                "-",
                "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian trixie main non-free-firmware",
                "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian-security trixie-security main",
                "deb [signed-by=/usr/share/keyrings/tools.gpg] https://packages.example/apt stable tools",
            ]
        );
        let names: Vec<_> = plan.files("").into_iter().map(|file| file.name).collect();
        assert_eq!(names, ["apt.conf", "check-archives", "finish", "script-00"]);
    }

    #[test]
    fn the_epoch_is_the_newest_date_unless_given() {
        assert_eq!(plan(|_| (), 1000, None).epoch(), 1000);
        assert_eq!(plan(|_| (), 1000, Some(5)).epoch(), 5);
        assert_eq!(plan(|_| (), 1000, Some(5)).newest(), 1000);
    }

    #[test]
    fn whatever_changes_the_tree_changes_its_inputs() {
        type Change = fn(&mut PackageSet);
        let base = plan(|_| (), 1000, None);
        assert_eq!(base.inputs(), plan(|_| (), 1000, None).inputs());
        let changes: [Change; 6] = [
            |set| set.variant = "apt".into(),
            |set| set.packages.push("vim".into()),
            |set| set.components.push("contrib".into()),
            |set| set.sources.truncate(1),
            |set| set.apt_options.push("APT::Install-Recommends \"true\"".into()),
            |set| set.scripts.push(script("#!/bin/sh\n")),
        ];
        let mut keys: Vec<_> = changes.iter().map(|change| plan(change, 1000, None).inputs()).collect();
        keys.push(plan(|set| set.scripts.push(script("#!/bin/sh\ntrue\n")), 1000, None).inputs());
        keys.push(plan(|_| (), 1001, None).inputs());
        keys.push(plan(|_| (), 1000, Some(999)).inputs());
        keys.push(base.inputs());
        let count = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }

    #[test]
    fn options_for_apt_are_one_file_and_words_that_are_none_are_refused() {
        let plan = plan(|set| set.apt_options.push("APT::Install-Recommends \"true\";".into()), 1, None);
        let files = plan.files("Acquire::Retries \"3\";\n");
        assert_eq!(files[0].bytes, b"Acquire::Retries \"3\";\nAPT::Install-Recommends \"true\";\n");
        let mut set = set();
        set.packages.push("a,b".into());
        assert_eq!(
            TreePlan::new(set, vec![], None).unwrap_err().to_string(),
            "`a,b` can't be a package: it has a space or one of `[ ] , # \"` in it"
        );
    }
}
