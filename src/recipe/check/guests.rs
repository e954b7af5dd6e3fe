//! What is asked of guests: what can be started in what, and what belongs to which kind.

use super::super::choices::{
    BsdArchitecture, ConsoleDevice, Cow, Devices, DiskFormat, GuestNetwork, KnoppixForm, Virt,
};
use super::super::guests::{Disk, GuestKind, Knoppix, NETBSD_MIRRORS, NetBsd, Origins, Plan9};
use super::super::values::{FileUrl, KernelName, SetName};
use super::*;
use formats::digest::Sha256;

/// NetBSD cuts what is longer off its command line.
const NETBSD_CMDLINE: usize = 255;
/// Command-line options that the host adds for NetBSD, and a word of `test`.
const NETBSD_OWN_OPTIONS: usize = 96;
/// The first release whose kernels start as pvh.
const NETBSD_PVH: u32 = 10;

impl Checker<'_> {
    pub(super) fn guest(&mut self, mut raw: RawGuest) -> Option<Guest> {
        let virt = raw.xen.take();
        let kind = self.kind(&mut raw, virt.as_ref());
        let as_it_is = kind.as_ref().filter(|kind| !kind.is_tree()).map(GuestKind::word);
        if let Some(word) = as_it_is {
            let given = [
                // Plan 9's ISO is made anew with them.
                raw.overlays.as_ref().filter(|_| word != "plan9").map(|given| ("overlays", at(given))),
                raw.hostname.as_ref().map(|given| ("hostname", at(given))),
                raw.image.as_ref().map(|given| ("image", at(given))),
            ];
            for (key, span) in given.into_iter().flatten() {
                let what = format!("`{key}` with `{word}`, whose disk is taken as it is");
                self.findings.add(&span, what, "leave it out");
            }
        }
        if let (Some(GuestKind::NetBsd(_)), Some(cmdline)) = (&kind, &raw.cmdline) {
            let most = NETBSD_CMDLINE - NETBSD_OWN_OPTIONS;
            if cmdline.value.as_str().len() > most {
                let what = format!("a command line of {} bytes", cmdline.value.as_str().len());
                let instead = format!("NetBSD cuts it off; {most} bytes are possible");
                self.findings.add(&cmdline.span, what, instead);
            }
        }
        let overlays = self.overlays(raw.overlays);
        let image = self.guest_image(raw.image, kind.as_ref());
        let memory = self.memory_size(raw.memory, 256 * MIB, 32 * MIB);
        let vcpus = self.within(raw.vcpus, 1, 1..=128, "processors");
        let expect = self.expected_lines(raw.expect);
        let name = raw.name.map(|name| name.value)?;
        let kind = kind?;
        let cow = or(raw.cow, || match kind {
            GuestKind::Debian(_) => Cow::None,
            _ => Cow::Tmpfs,
        });
        Some(Guest {
            virt: virt.map_or_else(|| default_virt(&kind), |virt| virt.value),
            cow,
            kind,
            overlays,
            hostname: or(raw.hostname, || host_name(&name)),
            image: image?,
            network: or(raw.network, || GuestNetwork::Bridge),
            memory: memory?,
            vcpus: vcpus?,
            cmdline: or(raw.cmdline, || known("")),
            start: or(raw.start, || Start::Boot),
            expect,
            name,
        })
    }

    fn kind(&mut self, raw: &mut RawGuest, virt: Option<&Located<Virt>>) -> Option<GuestKind> {
        let refuse = |checker: &mut Self, refused: &[(Virt, &str, &str)]| {
            let Some(virt) = virt else { return };
            for (_, what, instead) in refused.iter().filter(|(of, ..)| *of == virt.value) {
                checker.findings.add(&virt.span, *what, *instead);
            }
        };
        let no_loader = "it has no boot loader, which a whole PC would want";
        if let Some(debian) = raw.debian.take() {
            refuse(self, &[(Virt::Hvm, no_loader, "write `pv` or `pvh`")]);
            return Some(GuestKind::Debian(self.debian(debian.value)));
        }
        if let Some(netbsd) = raw.netbsd.take() {
            refuse(self, &[(Virt::Hvm, no_loader, "write `pv` or `pvh`")]);
            return self.netbsd(netbsd, virt).map(GuestKind::NetBsd);
        }
        if let Some(plan9) = raw.plan9.take() {
            let dead = "Plan 9's port to Xen was of 32 bits, which Debian's Xen no longer starts";
            let none = "no Plan 9 kernel starts as pvh";
            refuse(self, &[(Virt::Pv, dead, "write `hvm`"), (Virt::Pvh, none, "write `hvm`")]);
            return self.plan9(plan9.value).map(GuestKind::Plan9);
        }
        if let Some(disk) = raw.disk.take() {
            return self.disk(disk.value).map(GuestKind::Disk);
        }
        let knoppix = raw.knoppix.take()?;
        self.knoppix(knoppix.value, virt).map(GuestKind::Knoppix)
    }

    fn netbsd(&mut self, raw: Located<RawNetBsd>, virt: Option<&Located<Virt>>) -> Option<NetBsd> {
        let Located { span, value: raw } = raw;
        let pvh = virt.is_some_and(|virt| virt.value == Virt::Pvh);
        let virt_at = virt.map_or(span, |virt| virt.span.clone());
        let architecture = or(raw.architecture.clone(), || BsdArchitecture::Amd64);
        let mirrors = match raw.mirrors {
            Some(ref given) if given.value.is_empty() => {
                self.findings.add(&given.span, "no mirror", "leave the key out for NetBSD's own");
                Vec::new()
            }
            Some(_) => self.distinct(raw.mirrors),
            None => NETBSD_MIRRORS.iter().map(|url| known(url)).collect(),
        };
        let default_kernel = if pvh { "GENERIC" } else { "XEN3_DOMU" };
        let kernel_at = raw.kernel.as_ref().map(at);
        let kernel: KernelName = or(raw.kernel, || known(default_kernel));
        let version = raw.version?;
        if architecture == BsdArchitecture::I386 && !pvh {
            let span = raw.architecture.as_ref().map(at).unwrap_or_default();
            self.findings.add(
                &span,
                "i386 as pv: Debian's Xen is built without 32-bit pv guests",
                "write `amd64`, or `xen: pvh`",
            );
        }
        if pvh && version.value.major() < NETBSD_PVH {
            let what = format!("NetBSD {} as pvh: its kernels can't start so before 10", version.value);
            self.findings.add(&virt_at, what, "write `xen: pv`");
        }
        if let Some(span) = kernel_at {
            let (what, instead) = match (kernel.as_str(), pvh) {
                (name, _) if name.contains("MICROVM") => (
                    "MICROVM has neither Xen's disk nor its network",
                    "write `XEN3_DOMU` for pv, `GENERIC` for pvh",
                ),
                (name, _) if name.contains("DOM0") => {
                    ("a DOM0 kernel is for the host, not for a guest", "write `XEN3_DOMU`")
                }
                (name, true) if name.starts_with("XEN") => {
                    ("this kernel starts as pv, not as pvh", "write `GENERIC`")
                }
                (name, false) if name.starts_with("GENERIC") => {
                    ("GENERIC starts as pvh, not as pv", "write `XEN3_DOMU`, or `xen: pvh`")
                }
                _ => ("", ""),
            };
            if !what.is_empty() {
                self.findings.add(&span, what, instead);
            }
        }
        let sets = self.sets(raw.sets, !kernel.as_str().starts_with("XEN"));
        Some(NetBsd {
            version: version.value,
            architecture,
            mirrors,
            sets,
            kernel,
            devices: or(raw.devices, || Devices::Minimal),
            ssh_keys: self.files(raw.ssh_keys, "a file with a public key"),
        })
    }

    fn sets(&mut self, raw: Option<Located<List<SetName>>>, with_modules: bool) -> Vec<SetName> {
        let Some(given) = &raw else {
            let names: &[&str] = if with_modules { &["base", "etc", "modules"] } else { &["base", "etc"] };
            return names.iter().map(|name| known(name)).collect();
        };
        for needed in ["base", "etc"] {
            if !given.value.iter().any(|set| set.value.as_str() == needed) {
                let what = format!("the set `{needed}` is missing");
                self.findings.add(&given.span, what, "base and etc are the least");
            }
        }
        if let Some(kernel) = given.value.iter().find(|set| set.value.as_str().starts_with("kern")) {
            self.findings.add(&kernel.span, "kernels are not taken from sets", "name it with `kernel`");
        }
        self.distinct(raw)
    }

    fn plan9(&mut self, raw: RawPlan9) -> Option<Plan9> {
        let origins = self.origins(raw.urls, raw.sha256);
        let data = self.size_within(raw.data, 0, 0, 1024 * GIB, "a second disk");
        Some(Plan9 {
            flavour: raw.flavour?.value,
            origins: origins?,
            console: or(raw.console, || ConsoleDevice::Serial),
            data: data?,
            ini: raw.plan9_ini.map(|lines| lines.value.into_iter().map(|line| line.value).collect()),
        })
    }

    fn disk(&mut self, raw: RawDisk) -> Option<Disk> {
        let format = raw.format.map(|format| format.value).or_else(|| {
            let urls = raw.urls.as_ref()?;
            Some(DiskFormat::of(urls.value.first()?.value.file_name()))
        });
        Some(Disk { origins: self.origins(raw.urls, raw.sha256)?, format: format? })
    }

    fn knoppix(&mut self, raw: RawKnoppix, virt: Option<&Located<Virt>>) -> Option<Knoppix> {
        let form = or(raw.form, || KnoppixForm::Tree);
        if let (KnoppixForm::Tree, Some(virt)) = (form, virt.filter(|virt| virt.value == Virt::Hvm)) {
            let what = "a tree of files has no boot loader, which a whole PC would want";
            self.findings.add(&virt.span, what, "write `pv` or `pvh`, or `form: device`");
        }
        Some(Knoppix { origins: self.origins(raw.urls, raw.sha256)?, form })
    }

    pub(super) fn knoppix_host(&mut self, raw: RawKnoppix) -> Option<HostSystem> {
        if let Some(form) = raw.form.as_ref().filter(|form| form.value == KnoppixForm::Device) {
            let what = "a device as the host, whose kernel could not be found";
            self.findings.add(&form.span, what, "write `form: tree`, or make a guest of it");
        }
        let nothing = RawDebian {
            suite: None,
            variant: None,
            components: None,
            architecture: None,
            sources: None,
            packages: None,
            recommends: None,
            customise: None,
        };
        let kit = Box::new(self.debian(nothing));
        Some(HostSystem::Knoppix(self.knoppix(raw, None)?, kit))
    }

    fn origins(
        &mut self,
        urls: Option<Located<List<FileUrl>>>,
        sha256: Option<Located<Sha256>>,
    ) -> Option<Origins> {
        if let Some(given) = urls.as_ref().filter(|given| given.value.is_empty()) {
            self.findings.add(&given.span, "no URL", "say where the file is");
        }
        let urls = self.distinct(urls);
        (!urls.is_empty()).then_some(Origins { urls, sha256: sha256.map(|sha256| sha256.value) })
    }

    fn files(&mut self, raw: Option<Located<List<ProjectPath>>>, kind: &str) -> Vec<ProjectPath> {
        for Located { span, value } in raw.iter().flat_map(|raw| &raw.value) {
            if self.around.file(value) == ProjectFile::Missing {
                let what = format!("no file `{value}`, where {kind} belongs");
                self.findings.add(span, what, "paths begin at the project root");
            }
        }
        self.distinct(raw)
    }

    /// NetBSD reads inodes of 128 bytes in every release; what they lack it would not use.
    fn guest_image(
        &mut self,
        raw: Option<Located<RawFileSystem>>,
        kind: Option<&GuestKind>,
    ) -> Option<FileSystemOptions> {
        let given = raw.as_ref().is_some_and(|raw| raw.value.inode_size.is_some());
        let mut image = self.image(raw)?;
        if !given && matches!(kind, Some(GuestKind::NetBsd(_))) {
            image.inode_size = InodeSize::Small;
        }
        Some(image)
    }
}

/// The machine that a kind is best at.
fn default_virt(kind: &GuestKind) -> Virt {
    match kind {
        GuestKind::Debian(_) | GuestKind::NetBsd(_) => Virt::Pv,
        GuestKind::Knoppix(knoppix) if knoppix.form == KnoppixForm::Tree => Virt::Pv,
        GuestKind::Plan9(_) | GuestKind::Disk(_) | GuestKind::Knoppix(_) => Virt::Hvm,
    }
}
