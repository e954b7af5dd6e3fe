//! What a step of a build is asked with, for one guest, without a network.

use std::fs;
use std::path::Path;

use formats::names::UnixTime;
use formats::report::report;
use imgfactory::debian::{ArchiveMirrors, MmdebstrapMode};
use imgfactory::downloads::third_party::ThirdPartySources;
use imgfactory::ext2::ReadAt;
use imgfactory::guests::GuestContents;
use imgfactory::pipeline::Request;
use imgfactory::pipeline::guest_services::GuestServices;
use imgfactory::pipeline::last_signed::LastSigned;
use imgfactory::pipeline::step_cache::StepCache;
use imgfactory::pipeline::steps::disks::GuestDisk;
use imgfactory::pipeline::steps::systems;
use imgfactory::project::folder::Project;
use imgfactory::recipe::lock::Lock;
use imgfactory::sys::progress::Silent;
use imgfactory::sys::spool::ContentFiles;
use imgfactory::tree::Tree;
use system::http::HttpOptions;

/// Checks a recipe of one guest, `guest` being its part in YAML, in the project `room`, and makes what its image holds.
/// Third-party files are in `files`; the cache is in `room`.
pub fn guest_contents(
    room: &Path,
    guest: &str,
    files: &Path,
    lock: &Lock,
) -> Result<(GuestContents, ContentFiles), String> {
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
        cache_limit: 1 << 40,
        mirrors: &ArchiveMirrors::default(),
        mode: MmdebstrapMode::Unshare,
        epoch: None,
        sources: Some(files),
        lock,
        offline: true,
        previous: None,
        last_signed: LastSigned::default(),
        repack: false,
        public: "",
        imgfetch: b"",
        now: UnixTime(0),
        progress: &Silent,
        web: &HttpOptions::direct(),
    };
    let sources = ThirdPartySources::new(Some(files), &cache, true, &Silent, request.web);
    let steps = StepCache::new(&cache, "x", request.cache_limit, &Silent);
    let mut services = GuestServices::new(&request, &sources, &steps, cache.join("logs"));
    let made = systems::guest_contents(&recipe.guests[0], &mut services).map_err(|error| report(&error))?;
    Ok((made, services.spools))
}

/// Likewise the bytes of a disk that is taken as it is.
pub fn guest_disk(room: &Path, guest: &str, files: &Path) -> Result<Vec<u8>, String> {
    match guest_contents(room, guest, files, &Lock::default())?.0 {
        GuestContents::Disk(contents) => {
            let disk = GuestDisk { name: "disk".parse().unwrap(), contents };
            let mut bytes = vec![0; usize::try_from(disk.size()).unwrap()];
            disk.open().unwrap().read_exact_at(0, &mut bytes).unwrap();
            Ok(bytes)
        }
        GuestContents::Tree(_) => panic!("{guest}: no disk"),
    }
}

/// Likewise the files of a tree.
pub fn guest_tree(
    room: &Path,
    guest: &str,
    files: &Path,
    lock: &Lock,
) -> Result<(Tree, ContentFiles), String> {
    match guest_contents(room, guest, files, lock)? {
        (GuestContents::Tree(made), spools) => Ok((made.tree, spools)),
        (GuestContents::Disk(_), _) => panic!("{guest}: no tree"),
    }
}
