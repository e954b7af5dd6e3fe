//! What `run` and `test` have in common: a build, a machine for it, and a mirror for the machine.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::build::out_of;
use super::{Failure, Session};
use crate::pipeline::build_record::{BuildRecord, MIRROR};
use crate::project::folder::Project;
use crate::repository::server::Server;
use crate::vm::accel::{self, Accel};
use crate::vm::{Firmware, Medium, Nic, Screen, VirtualMachine};

/// Options of the machine.
#[derive(Debug, clap::Args)]
pub(super) struct MachineArgs {
    /// The output directory of a build, or its recipe, for out/NAME
    #[arg(value_name = "OUT|RECIPE")]
    pub(super) out: PathBuf,
    /// Boot this medium, e.g. one made by `imgfactory iso` [default: the build's ISO]
    #[arg(long, value_name = "FILE")]
    iso: Option<PathBuf>,
    /// Boot with BIOS firmware; this is the default
    #[arg(long, conflicts_with = "uefi")]
    bios: bool,
    /// Boot with UEFI firmware, from the Debian package ovmf
    #[arg(long)]
    uefi: bool,
    /// Kind of drive that the ISO is attached as
    #[arg(long, value_name = "KIND", default_value = "cdrom")]
    medium: MediumArg,
    /// Attach the ISO as a disk: the same as --medium disk
    #[arg(long, conflicts_with = "medium")]
    disk: bool,
    /// Menu entry to boot without waiting: xen, linux, rescue [default: the first]
    #[arg(long, value_name = "ENTRY")]
    entry: Option<String>,
    /// Memory of the machine in MiB [default: the recipe's]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(64..=1 << 20))]
    memory: Option<u64>,
    /// Processors of the machine [default: the recipe's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=255))]
    cpus: Option<u32>,
    /// Processor model, in QEMU's terms; qemu64,+svm,+npt offers virtualisation to HVM guests [default: QEMU's]
    #[arg(long, value_name = "MODEL")]
    cpu: Option<String>,
    /// Model of the network card
    #[arg(long, value_name = "MODEL", default_value = "virtio")]
    nic: NicArg,
    /// How QEMU runs the machine: tcg works everywhere but is slow; auto is kvm if this computer has it
    #[arg(long, value_name = "HOW", default_value = "auto")]
    accel: AccelArg,
    /// Mirror for the machine to fetch from; it reaches this computer as 10.0.2.2 [default: serve OUT/mirror]
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Parameters to add to Linux's command line; may be repeated
    #[arg(long, value_name = "WORDS")]
    options: Vec<String>,
}

/// `--medium`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum MediumArg {
    Cdrom,
    Disk,
    Usb,
}

/// `--nic`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum NicArg {
    Virtio,
    E1000,
    None,
}

/// `--accel`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum AccelArg {
    Auto,
    Kvm,
    Tcg,
}

/// A machine ready to be started.
pub(super) struct PreparedMachine {
    pub(super) machine: VirtualMachine,
    /// The mirror it fetches from, if that is ours. It serves until dropped.
    pub(super) server: Option<Server>,
    /// The menu entry that it boots.
    pub(super) entry: String,
    /// Firmware, medium and entry in a word, for names of files.
    pub(super) kind: String,
}

impl MachineArgs {
    /// Whether the machine fetches from a server that is not ours.
    pub(super) fn has_mirror(&self) -> bool {
        self.mirror.is_some()
    }

    /// More words for Linux's command line.
    pub(super) fn add_options<'a>(&mut self, words: impl IntoIterator<Item = &'a str>) {
        self.options.extend(words.into_iter().map(str::to_owned));
    }

    /// Finds the build of a recipe, if it is that which was named.
    ///
    /// # Errors
    /// Those of a recipe that can't be read.
    pub(super) fn find(&mut self) -> Result<(), Failure> {
        if self.out.is_file() {
            let (_, recipe) = Project::load(&self.out)?;
            self.out = out_of(&recipe);
        }
        Ok(())
    }

    /// Reads the build's facts and says what is meant.
    ///
    /// # Errors
    /// [`Failure::Usage`] for an entry that the menu does not have.
    pub(super) fn prepare(
        &self,
        session: &Session,
        token: Option<&str>,
        screen: Screen,
    ) -> Result<(BuildRecord, PreparedMachine), Failure> {
        let facts = BuildRecord::read(&self.out)?;
        if let Some(entry) = &self.entry
            && !facts.entries.contains(entry)
        {
            let known = facts.entries.join(", ");
            return Err(Failure::Usage(format!(
                "--entry {entry}: no such menu entry; the build has {known}"
            )));
        }
        let firmware = if self.uefi { Firmware::uefi()? } else { Firmware::Bios };
        let medium = match self.medium {
            _ if self.disk => Medium::Disk,
            MediumArg::Cdrom => Medium::Cdrom,
            MediumArg::Disk => Medium::Disk,
            MediumArg::Usb => Medium::Usb,
        };
        let accel = match self.accel {
            AccelArg::Kvm => Accel::Kvm,
            AccelArg::Tcg => Accel::Tcg,
            AccelArg::Auto => {
                let found = accel::find()?;
                if let Some(why) = found.why {
                    session.progress.say(&format!(
                        "KVM can't be used: {why}; QEMU emulates the processor, which is slow"
                    ));
                }
                found.accel
            }
        };
        let server = match self.mirror {
            Some(_) => None,
            None => Some(serve(&self.out)?),
        };
        let mirror = match (&self.mirror, &server) {
            (Some(url), _) => Some(url.clone()),
            (None, Some(server)) => Some(format!("http://10.0.2.2:{}/", server.address().port())),
            (None, None) => None,
        };
        let machine = VirtualMachine {
            iso: self.iso.clone().unwrap_or_else(|| self.out.join(&facts.iso)),
            medium,
            firmware,
            accel,
            memory_mib: self.memory.unwrap_or(facts.machine.memory_mib),
            // With TCG, dom0's processors wait for each other long enough to trigger its watchdog.
            cpus: self.cpus.unwrap_or(if accel == Accel::Tcg { 1 } else { facts.machine.cpus }),
            cpu: self.cpu.clone(),
            nic: match self.nic {
                NicArg::Virtio => Some(Nic::Virtio),
                NicArg::E1000 => Some(Nic::E1000),
                NicArg::None => None,
            },
            oem: Some(oem(self.entry.as_deref(), mirror.as_deref(), token, &self.options)),
            screen,
        };
        let entry = self.entry.clone().or(facts.entries.first().cloned()).unwrap_or_default();
        let firmware = if self.uefi { "uefi" } else { "bios" };
        let kind = format!("{firmware}-{medium:?}-{entry}").to_lowercase();
        Ok((facts, PreparedMachine { machine, server, entry, kind }))
    }
}

/// Serves a build's mirror tree for machines of ours only.
fn serve(out: &Path) -> Result<Server, Failure> {
    Ok(Server::start(&out.join(MIRROR), ([127, 0, 0, 1], 0).into())?)
}

/// The string that GRUB reads: docs/iso.md has its form.
fn oem(entry: Option<&str>, mirror: Option<&str>, token: Option<&str>, options: &[String]) -> String {
    let named = [("entry", entry), ("mirror", mirror), ("imgfactory.token", token)];
    let named = named.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
    let words: Vec<String> = named.chain(options.iter().cloned()).collect();
    format!("imgfactory:{}", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grub_reads_is_one_line_of_words() {
        for (entry, mirror, token, options, said) in [
            (None, None, None, &[][..], "imgfactory:"),
            (
                Some("xen"),
                Some("http://10.0.2.2:1/"),
                Some("ab12"),
                &["nodlahead".to_owned(), "strict".to_owned()][..],
                "imgfactory:entry=xen mirror=http://10.0.2.2:1/ imgfactory.token=ab12 nodlahead strict",
            ),
        ] {
            assert_eq!(oem(entry, mirror, token, options), said);
        }
    }
}
