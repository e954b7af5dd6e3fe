//! What a step of a build is asked with, for one guest, without a network.

use std::fs;
use std::path::Path;

use formats::names::UnixTime;
use imgfactory::debian::{ArchiveMirrors, MmdebstrapMode};
use imgfactory::downloads::third_party::ThirdPartySources;
use imgfactory::pipeline::Request;
use imgfactory::project::folder::Project;
use imgfactory::recipe::Guest;
use imgfactory::recipe::lock::Lock;
use imgfactory::sys::progress::Silent;

/// Checks a recipe of one guest, `guest` being its part in YAML, in the project `room`, and gives it to `make`. Files
/// of others are in `files`; the cache is in `room`.
pub fn with_guest<T>(
    room: &Path,
    guest: &str,
    files: &Path,
    lock: &Lock,
    make: impl FnOnce(&Request<'_>, &ThirdPartySources<'_>, &Guest) -> Result<T, String>,
) -> Result<T, String> {
    let recipe = room.join("x.yaml");
    fs::write(&recipe, format!("name: x\nhost: {{debian: {{}}}}\nboot: {{xen: true}}\nguests:\n- {guest}\n"))
        .unwrap();
    let (project, recipe) = Project::load(&recipe).map_err(|error| error.to_string())?;
    let cache = room.join("cache");
    fs::create_dir_all(cache.join("logs")).unwrap();
    let request = Request {
        recipe: &recipe,
        project: &project,
        out: &cache,
        cache: &cache,
        mirrors: &ArchiveMirrors::default(),
        mode: MmdebstrapMode::Unshare,
        epoch: None,
        sources: Some(files),
        lock,
        offline: true,
        previous: None,
        repack: false,
        public: "",
        imgfetch: b"",
        now: UnixTime(0),
        progress: &Silent,
    };
    let sources = ThirdPartySources::new(Some(files), &cache, true, &Silent);
    make(&request, &sources, &recipe.guests[0])
}
