//! ext2 images before judges from outside: e2fsck, the kernel, another implementation.
//! Needs root for loop mounts, and the Debian packages e2fsprogs and mount.

mod support;

use std::path::Path;

use imgfactory::ext2::{InodeSize, Options, Plan, Sequential, write};
use imgfactory::tree::{Contents, Tree};
use support::judges::{assert_fsck_is_silent, compare_mount_with_tree};
use support::trees::{everything, spools};

fn write_image(path: &Path, tree: &Tree, contents: &dyn Contents, options: &Options) {
    let plan = Plan::new(tree, options, &mut Sequential::default()).unwrap();
    let mut out = std::fs::File::create(path).unwrap();
    write(&plan, contents, &mut out).unwrap();
    let blocks = u64::from(plan.geometry().blocks);
    assert_eq!(out.metadata().unwrap().len(), blocks * 4096);
}

#[test]
fn a_tree_with_everything_pleases_e2fsck_and_the_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("everything.img");
    write_image(
        &image,
        &everything(),
        &spools(),
        &Options { free: 1 << 20, ..Options::new("all", 1_700_000_000) },
    );
    assert_fsck_is_silent(&image);
    compare_mount_with_tree(&image, &everything(), &spools());
    let _ = InodeSize::Small;
}
