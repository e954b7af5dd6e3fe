//! `build.json`, the record of a build: what `run`, `test` and `publish` need to know, its steps and its figures.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use crate::repository::published::MIRROR;

use crate::iso::grub::guest_entry;
use crate::iso::plan::IsoParts;
use crate::pipeline::step_inputs::StepInputs;
use crate::recipe::{self, Recipe};
use formats::names::Serial;
use system::files::{FileError, read_at_most, write_atomic};

/// Its name in the output directory.
pub const FILE: &str = "build.json";
/// The directory beside it with what other programs said.
pub const LOGS: &str = "logs";

/// The version of the file that we write and read.
const VERSION: u32 = 1;

/// What a build records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BuildRecord {
    /// The file's version, 1.
    pub version: u32,
    pub name: String,
    /// The release that was built.
    pub serial: u64,
    /// File name of the ISO, beside `build.json`.
    pub iso: String,
    /// Where the ISO fetches from when it is told nothing else.
    pub mirrors: Vec<String>,
    /// Entries of the boot menu by id, the default first.
    pub entries: Vec<String>,
    /// The smallest machine that the recipe is for.
    pub machine: RecordedMachine,
    /// What `test` waits for.
    pub expect: RecordedExpect,
    /// Bytes of the ISO by part.
    pub parts: IsoParts,
    pub images: Vec<ImageFigures>,
    /// Steps of the build, in order.
    pub steps: Vec<StepRecord>,
    /// Where releases go; files of earlier versions have none.
    #[serde(default)]
    pub publish: PublishRecord,
}

/// What `publish`, `rollback`, `refresh` and `gc` need to know. Times are in seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct PublishRecord {
    /// Public keys that sign its releases, in base64.
    pub keys: Vec<String>,
    /// The signing key's name: a path without `.key`.
    pub key: String,
    /// Places, in order.
    pub targets: Vec<RecordedTarget>,
    /// Whether the failure of one target keeps others from being begun.
    pub stop: bool,
    /// How long a release's blocks stay at least.
    pub retain: u64,
    /// How long `latest` is fresh.
    pub fresh: u64,
    /// How many of the newest releases stay.
    pub keep: u32,
    /// Between condemning a file and removing it.
    pub grace: u64,
    /// Releases that stay for ever.
    pub pin: Vec<u32>,
}

impl Default for PublishRecord {
    /// What a recipe that says nothing means: docs/recipe.md.
    fn default() -> Self {
        const DAY: u64 = 86_400;
        PublishRecord {
            keys: vec![],
            key: String::new(),
            targets: vec![],
            stop: false,
            retain: 90 * DAY,
            fresh: 7 * DAY,
            keep: 3,
            grace: 14 * DAY,
            pin: vec![],
        }
    }
}

/// A place to publish to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RecordedTarget {
    /// As the recipe writes it.
    pub to: String,
    /// Where clients fetch from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// The smallest machine that the recipe asks for; `run` and `test` start one like it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RecordedMachine {
    pub memory_mib: u64,
    pub cpus: u32,
}

/// What must appear on the console.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RecordedExpect {
    /// Within so many seconds.
    pub timeout_s: u64,
    /// Templates of lines, in any order; `{{ token }}` is a word that is new at each boot.
    pub lines: Vec<String>,
    /// Likewise, what guests print: only when the machine boots with Xen.
    pub guest_lines: Vec<String>,
}

impl RecordedExpect {
    /// The time there is.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_s)
    }
}

/// An image of the release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageFigures {
    pub name: String,
    /// Bytes of the disk.
    pub bytes: u64,
    /// Blocks of the disk that hold something.
    pub blocks: u64,
    /// Block files that differ, what clients may fetch.
    pub objects: u64,
    /// Bytes of those files.
    pub compressed: u64,
}

/// A step of the build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StepRecord {
    /// Its name, as `imgfactory why` knows it.
    pub name: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Whether an earlier result was used.
    pub cached: bool,
    /// What its result depends on, as declared before it ran; the first versions of this file have none.
    #[serde(default)]
    pub inputs: StepInputs,
    /// The hash of the inputs, which names the result in the cache; earlier versions of this file have none.
    #[serde(default)]
    pub inputs_hash: String,
    /// What became known while it ran; later steps may have it as an input.
    #[serde(default, skip_serializing_if = "StepInputs::is_empty")]
    pub found: StepInputs,
    /// Which inputs changed since the previous build, `-` what was, `+` what is, or why else it ran.
    #[serde(default)]
    pub because: Vec<String>,
}

/// Why there is no record.
#[derive(Debug, thiserror::Error)]
pub enum BuildRecordError {
    /// There is nothing, or it can't be read.
    #[error("{dir}: contains no finished build; make one with: imgfactory build RECIPE --out {dir}")]
    Missing { dir: String, source: FileError },
    /// It is not what we write.
    #[error("{path}: not a build record of imgfactory")]
    Wrong { path: String, source: serde_json::Error },
    /// Another version of us wrote it.
    #[error("{path}: has version {found}; this program supports {VERSION}; build again")]
    Version { path: String, found: u32 },
    #[error(transparent)]
    File(#[from] FileError),
}

impl BuildRecord {
    /// The record of a build.
    pub fn of(
        recipe: &Recipe,
        serial: Serial,
        parts: IsoParts,
        images: Vec<ImageFigures>,
        steps: Vec<StepRecord>,
    ) -> Self {
        let lines = |lines: &[recipe::Line]| lines.iter().map(ToString::to_string).collect::<Vec<_>>();
        BuildRecord {
            version: VERSION,
            name: recipe.name.to_string(),
            serial: serial.get(),
            iso: format!("{}.iso", recipe.name),
            mirrors: recipe.mirrors.iter().map(ToString::to_string).collect(),
            entries: entries(recipe),
            machine: RecordedMachine { memory_mib: recipe.machine.memory >> 20, cpus: recipe.machine.cpus },
            expect: RecordedExpect {
                timeout_s: recipe.expect.timeout.as_secs(),
                lines: lines(&recipe.expect.lines),
                guest_lines: recipe.guests.iter().flat_map(|guest| lines(&guest.expect)).collect(),
            },
            parts,
            images,
            steps,
            publish: PublishRecord {
                keys: vec![],
                key: String::new(),
                targets: recipe
                    .publish
                    .targets
                    .iter()
                    .map(|target| RecordedTarget {
                        to: target.to.written(),
                        url: target.url.as_ref().map(ToString::to_string),
                    })
                    .collect(),
                stop: recipe.publish.on_failure == recipe::OnFailure::Stop,
                retain: recipe.publish.retain,
                fresh: recipe.publish.fresh,
                keep: recipe.publish.keep,
                grace: recipe.publish.grace,
                pin: recipe.publish.pin.clone(),
            },
        }
    }

    /// The version to put into new records.
    pub const VERSION: u32 = VERSION;

    /// Reads that of the output directory `dir`.
    ///
    /// # Errors
    /// [`BuildRecordError`].
    pub fn read(dir: &Path) -> Result<Self, BuildRecordError> {
        /// The one field that every version has.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let file = dir.join(FILE);
        let bytes = read_at_most(&file, 1 << 20)
            .map_err(|source| BuildRecordError::Missing { dir: dir.display().to_string(), source })?;
        let path = || file.display().to_string();
        let wrong = |source| BuildRecordError::Wrong { path: path(), source };
        let Versioned { version: found } = serde_json::from_slice(&bytes).map_err(wrong)?;
        if found != VERSION {
            return Err(BuildRecordError::Version { path: path(), found });
        }
        serde_json::from_slice(&bytes).map_err(wrong)
    }

    /// Writes it into `dir`, whole or not at all.
    ///
    /// # Errors
    /// [`BuildRecordError::File`].
    pub fn write(&self, dir: &Path) -> Result<(), BuildRecordError> {
        let mut text = serde_json::to_vec_pretty(self).expect("no map with keys that are not text");
        text.push(b'\n');
        Ok(write_atomic(dir.join(FILE), &text)?)
    }
}

/// Entries of the boot menu: those of the recipe, then one a guest.
fn entries(recipe: &Recipe) -> Vec<String> {
    let own = recipe.boot.entries.iter().map(|entry| entry.as_str().to_owned());
    let below_xen = recipe.boot.entries.contains(&recipe::MenuEntry::Xen);
    let guests = recipe.guests.iter().filter(|_| below_xen).map(|guest| guest_entry(guest.name.as_str()));
    own.chain(guests).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use system::files::Scratch;

    fn record() -> BuildRecord {
        let parts =
            IsoParts { xen: 1, kernel: 2, miniroot: 3, grub_bios: 4, esp: 5, blocks: 0, rest: 6, total: 21 };
        BuildRecord {
            version: VERSION,
            name: "demo".into(),
            serial: 7,
            iso: "demo.iso".into(),
            mirrors: vec!["http://mirror.example/".into()],
            entries: vec!["xen".into(), "linux".into()],
            machine: RecordedMachine { memory_mib: 2048, cpus: 1 },
            expect: RecordedExpect {
                timeout_s: 300,
                lines: vec!["ready {{ token }}".into()],
                guest_lines: vec![],
            },
            parts,
            images: vec![ImageFigures {
                name: "host".into(),
                bytes: 9,
                blocks: 8,
                objects: 7,
                compressed: 6,
            }],
            steps: vec![StepRecord {
                name: "tree".into(),
                seconds: 1.5,
                cached: false,
                inputs: StepInputs::new().with("suite", "trixie"),
                inputs_hash: StepInputs::new().with("suite", "trixie").hash().to_string(),
                found: StepInputs::new().with("epoch", 7),
                because: vec!["the previous build did not have this step".into()],
            }],
            publish: PublishRecord::default(),
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let dir = Scratch::directory(std::env::temp_dir()).unwrap();
        record().write(dir.path()).unwrap();
        assert_eq!(BuildRecord::read(dir.path()).unwrap(), record());
    }

    #[test]
    fn the_steps_of_earlier_versions_are_read() {
        let lines =
            r#"{"name": "tree", "seconds": 1.5, "cached": true, "inputs": ["suite trixie"], "because": []}"#;
        let step: StepRecord = serde_json::from_str(lines).unwrap();
        assert_eq!((step.inputs.lines(), &step.inputs_hash[..]), (vec!["suite trixie".to_owned()], ""));
        let first = r#"{"name": "tree", "seconds": 1.5, "cached": true}"#;
        assert!(serde_json::from_str::<StepRecord>(first).unwrap().inputs.is_empty());
    }

    #[test]
    fn what_is_not_ours_is_told_apart() {
        let dir = Scratch::directory(std::env::temp_dir()).unwrap();
        let shown = dir.path().display().to_string();
        for (text, said) in [
            (
                None,
                format!(
                    "{shown}: contains no finished build; make one with: imgfactory build RECIPE --out {shown}"
                ),
            ),
            (Some("{}"), format!("{shown}/build.json: not a build record of imgfactory")),
            (Some("{\"version\": 1}"), format!("{shown}/build.json: not a build record of imgfactory")),
            (
                Some("{\"version\": 2}"),
                format!("{shown}/build.json: has version 2; this program supports 1; build again"),
            ),
        ] {
            if let Some(text) = text {
                std::fs::write(dir.path().join(FILE), text).unwrap();
            }
            assert_eq!(BuildRecord::read(dir.path()).unwrap_err().to_string(), said);
        }
    }
}
