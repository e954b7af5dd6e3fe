//! A guest, whatever its kind: what is asked of the kind and of the rest of the guest together.

use super::super::guests::{GuestKind, RawGuest, ThirdPartySource};
use super::super::values::FileUrl;
use super::*;
use crate::recipe::choices::{GuestNetwork, Virt};
use formats::digest::Sha256;

impl Checker<'_> {
    pub(super) fn guest(&mut self, mut section: RawGuest) -> Option<Guest> {
        let virt = section.xen.take();
        let kind = GuestKind::take(&mut section, virt.as_ref(), self);
        if let Some(kind) = &kind {
            self.fits_kind(&section, kind);
        }
        let overlays = self.overlays(section.overlays);
        let image = self.guest_image(section.image, kind.as_ref());
        let memory = self.memory_size(section.memory, 256 * MIB, 32 * MIB);
        let vcpus = self.within(section.vcpus, 1, 1..=128, "processors");
        let expect = self.expected_lines(section.expect);
        let name = section.name.map(|name| name.value)?;
        let kind = kind?;
        Some(Guest {
            virt: or(virt, || kind.rules().default_virt()),
            cow: or(section.cow, || kind.rules().default_cow()),
            kind,
            overlays,
            hostname: or(section.hostname, || host_name(&name)),
            image: image?,
            network: or(section.network, || GuestNetwork::Bridge),
            memory: memory?,
            vcpus: vcpus?,
            cmdline: or(section.cmdline, || known("")),
            start: or(section.start, || Start::Boot),
            expect,
            name,
        })
    }

    /// Whether the guest's other keys make sense for its kind.
    fn fits_kind(&mut self, section: &RawGuest, kind: &GuestKind) {
        if !kind.is_tree() {
            let overlays = section.overlays.as_ref().filter(|_| !kind.rules().takes_overlays());
            let given = [
                overlays.map(|given| ("overlays", at(given))),
                section.hostname.as_ref().map(|given| ("hostname", at(given))),
                section.image.as_ref().map(|given| ("image", at(given))),
            ];
            for (key, span) in given.into_iter().flatten() {
                let what = format!("`{key}` with `{}`, whose disk is used unchanged", kind.word());
                self.findings.add(&span, what, "leave it out");
            }
        }
        if let (Some((most, system)), Some(cmdline)) = (kind.rules().longest_cmdline(), &section.cmdline)
            && cmdline.value.as_str().len() > most
        {
            let what = format!("a command line of {} bytes", cmdline.value.as_str().len());
            let instead = format!("{system} truncates it; at most {most} bytes are possible");
            self.findings.add(&cmdline.span, what, instead);
        }
    }

    /// Whether Xen's machine can start a kind: `unsuitable` has those that can't, why, and what to write instead.
    pub(in crate::recipe) fn suitable(
        &mut self,
        virt: Option<&Located<Virt>>,
        unsuitable: &[(Virt, &str, &str)],
    ) {
        let Some(virt) = virt else { return };
        for (_, what, instead) in unsuitable.iter().filter(|(of, ..)| *of == virt.value) {
            self.findings.add(&virt.span, *what, *instead);
        }
    }

    /// A file that is fetched: its URLs, and its checksum if it is given.
    pub(in crate::recipe) fn third_party(
        &mut self,
        urls: Option<Located<List<FileUrl>>>,
        sha256: Option<Located<Sha256>>,
    ) -> Option<ThirdPartySource> {
        if let Some(given) = urls.as_ref().filter(|given| given.value.is_empty()) {
            self.findings.add(&given.span, "no URL", "give the URL of the file");
        }
        let urls = self.distinct(urls);
        (!urls.is_empty()).then_some(ThirdPartySource { urls, sha256: sha256.map(|sha256| sha256.value) })
    }

    /// Files of the project, which must exist. `kind` is what they are, with its article.
    pub(in crate::recipe) fn files(
        &mut self,
        raw: Option<Located<List<ProjectPath>>>,
        kind: &str,
    ) -> Vec<ProjectPath> {
        for Located { span, value } in raw.iter().flat_map(|raw| &raw.value) {
            if self.around.file(value) == ProjectFile::Missing {
                let what = format!("no file `{value}`; expected {kind}");
                self.findings.add(span, what, "paths start at the project root");
            }
        }
        self.distinct(raw)
    }

    fn guest_image(
        &mut self,
        raw: Option<Located<RawFileSystem>>,
        kind: Option<&GuestKind>,
    ) -> Option<FileSystemOptions> {
        let given = raw.as_ref().is_some_and(|raw| raw.value.inode_size.is_some());
        let mut image = self.image(raw)?;
        if let (false, Some(kind)) = (given, kind) {
            image.inode_size = kind.rules().default_inode_size();
        }
        Some(image)
    }
}
