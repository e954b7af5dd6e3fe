//! Raw types -> checked types: defaults, bounds, and what one part of a recipe asks of another.

mod guests;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Duration;

use super::choices::{Architecture, Archive, MenuEntry, OnFailure, Start, Variant};
use super::guests::{RawGuest, knoppix};
use super::raw::{
    List, RawBlocks, RawBoot, RawDebian, RawDebianSource, RawExpect, RawFileSystem, RawHost, RawMachine,
    RawPublish, RawRecipe, RawXen,
};
use super::types::{
    ArchiveLocation, Blocks, Boot, DEFAULT_MODULES, Debian, DebianSource, Expect, FileSystemOptions, Guest,
    HOST_IMAGE, Host, HostSystem, Machine, Publish, PublishTarget, Recipe, Xen,
};
use super::values::{Component, HostName, Line, Module, OverlayName, ProjectPath, Seconds, Size, Suite};
use super::{ProjectFile, ProjectFiles};
use crate::ext2::InodeSize;
use crate::templates::render_text;
use crate::yaml::findings::{Findings, Located, Span, did_you_mean, listed};
use crate::yaml::shape::{Scalar, Switch};
use formats::block::Codec;
use formats::names::{BlockSize, ImageName};
use formats::report::size;

pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;

/// The Xen of Debian keeps about this much for itself.
const XEN_OVERHEAD: u64 = 64 * MIB;

/// A value that the program itself writes as people would.
pub(super) fn known<T: Scalar>(text: &str) -> T {
    match T::read(text) {
        Ok(value) => value,
        Err(wrong) => unreachable!("a default is right: {}", wrong.what),
    }
}

/// The value of a key that need not be there.
pub(super) fn or<T>(given: Option<Located<T>>, default: impl FnOnce() -> T) -> T {
    given.map_or_else(default, |given| given.value)
}

/// Checks the whole recipe. `None` after at least one finding; findings may also come with a recipe.
pub fn check(raw: RawRecipe, around: &dyn ProjectFiles, findings: &mut Findings) -> Option<Recipe> {
    let mut checker = Checker { around, overlays: around.overlays(), findings };
    checker.recipe(raw)
}

pub(super) struct Checker<'a> {
    pub(super) around: &'a dyn ProjectFiles,
    overlays: Vec<String>,
    pub(super) findings: &'a mut Findings,
}

impl Checker<'_> {
    fn recipe(&mut self, raw: RawRecipe) -> Option<Recipe> {
        let guests_at = raw.guests.as_ref().map(|guests| guests.span.clone());
        let guests_given = raw.guests.as_ref().is_some_and(|guests| !guests.value.is_empty());
        let xen_given = raw.boot.as_ref().is_some_and(|boot| has_xen(boot.value.xen.as_ref()));
        let machine_at = raw.machine.as_ref().and_then(|machine| machine.value.memory.as_ref()).map(at);
        let mirrors = self.distinct(raw.mirrors);
        let machine = self.machine(raw.machine);
        let boot = self.boot(raw.boot);
        let guests = self.guests(raw.guests);
        let blocks = self.blocks(raw.blocks);
        let expect = self.expect(raw.expect);
        let publish = self.publish(raw.publish);
        let name = raw.name.map(|name| name.value);
        let host = raw.host.and_then(|host| self.host(host.value, name.as_ref()));

        if let Some(span) = guests_at.as_ref().filter(|_| guests_given && !xen_given) {
            self.findings.add(
                span,
                "guests without Xen",
                "add `xen: true` to `boot`, or leave the guests out",
            );
        }
        if let (Some(machine), Some(Boot { xen: Some(xen), .. }), Some(guests)) = (&machine, &boot, &guests) {
            let started: Vec<&Guest> = guests.iter().filter(|guest| guest.start == Start::Boot).collect();
            self.memory(machine, xen, &started, machine_at.or(guests_at));
        }
        let name = name?;
        Some(Recipe {
            description: or(raw.description, || known("")),
            key: or(raw.key, || known(&format!("keys/{name}"))),
            mirrors,
            host: host?,
            boot: boot?,
            guests: guests?,
            blocks: blocks?,
            machine: machine?,
            expect: expect?,
            name,
            publish: publish?,
        })
    }

    /// Whether all that starts with the machine fits into it.
    fn memory(&mut self, machine: &Machine, xen: &Xen, guests: &[&Guest], at: Option<Span>) {
        let for_guests: u64 = guests.iter().map(|guest| guest.memory).fold(0, u64::saturating_add);
        let needed = xen.memory.saturating_add(for_guests).saturating_add(XEN_OVERHEAD);
        if needed > machine.memory {
            let what = format!(
                "a machine of {} is too small for the host's {}, the {} of guests that start with it, and {} for Xen",
                size(machine.memory),
                size(xen.memory),
                size(for_guests),
                size(XEN_OVERHEAD),
            );
            let instead = format!("write `memory: {}MiB` in `machine`", needed.div_ceil(MIB));
            self.findings.add(&at.unwrap_or(0..0), what, instead);
        }
    }

    fn host(&mut self, raw: RawHost, recipe: Option<&ImageName>) -> Option<Host> {
        let system = match (raw.debian, raw.knoppix) {
            (Some(debian), _) => Some(HostSystem::Debian(self.debian(debian.value))),
            (None, Some(knoppix)) => knoppix::check_host(knoppix, self),
            (None, None) => None,
        };
        let overlays = self.overlays(raw.overlays);
        let image = self.image(raw.image);
        let hostname = raw.hostname.map(|name| name.value).or_else(|| recipe.map(host_name));
        let added_packages = Vec::new();
        Some(Host { system: system?, overlays, hostname: hostname?, image: image?, added_packages })
    }

    /// All guests, or `None` if one of them is wrong.
    fn guests(&mut self, raw: Option<Located<List<RawGuest>>>) -> Option<Vec<Guest>> {
        let Some(raw) = raw else { return Some(Vec::new()) };
        let mut names: BTreeSet<ImageName> = BTreeSet::new();
        let mut guests = Vec::new();
        for Located { value: raw, .. } in raw.value {
            if let Some(Located { span, value: name }) = &raw.name {
                if name.as_str() == HOST_IMAGE {
                    self.findings.add(
                        span,
                        "a guest can't be called `host`",
                        "the host's image has this name; choose another",
                    );
                } else if !names.insert(name.clone()) {
                    self.findings.add(
                        span,
                        format!("a second guest `{name}`"),
                        "give each guest its own name",
                    );
                }
            }
            guests.push(self.guest(raw));
        }
        guests.into_iter().collect()
    }

    pub(super) fn debian(&mut self, raw: RawDebian) -> Debian {
        let components: Vec<Component> = self.components(raw.components, &[known("main")]);
        let mut sources = Vec::new();
        for Located { value, .. } in raw.sources.map(|sources| sources.value).unwrap_or_default() {
            sources.extend(self.source(value, &components));
        }
        Debian {
            suite: or(raw.suite, || known("trixie")),
            variant: or(raw.variant, || Variant::Minbase),
            components,
            architecture: or(raw.architecture, || Architecture::Amd64),
            sources,
            packages: self.distinct(raw.packages),
            recommends: or(raw.recommends, || false),
            customise: self.scripts(raw.customise),
        }
    }

    fn components(&mut self, raw: Option<Located<List<Component>>>, default: &[Component]) -> Vec<Component> {
        if let Some(given) = raw.as_ref().filter(|given| given.value.is_empty()) {
            self.findings.add(&given.span, "no component", "leave out `components` for the default");
        }
        if raw.is_none() { default.to_vec() } else { self.distinct(raw) }
    }

    fn source(&mut self, raw: RawDebianSource, default: &[Component]) -> Option<DebianSource> {
        let components = self.components(raw.components, default);
        if let (Some(uri), Some(_)) = (&raw.uri, &raw.archive) {
            self.findings.add(&uri.span, "both `uri` and `archive`", "remove one of the two");
        }
        if let (None, Some(suite)) = (&raw.uri, &raw.suite) {
            self.archive_fits(suite, raw.archive.as_ref());
        }
        let origin = match raw.uri {
            Some(uri) => ArchiveLocation::Uri(uri.value),
            None => ArchiveLocation::Archive(or(raw.archive, || Archive::Debian)),
        };
        Some(DebianSource { suite: raw.suite?.value, origin, components })
    }

    /// Security suites are in the security archive, and nothing else is.
    fn archive_fits(&mut self, suite: &Located<Suite>, archive: Option<&Located<Archive>>) {
        let name = suite.value.as_str();
        let of_security = name.ends_with("-security") || name.ends_with("/updates");
        match archive.map_or(Archive::Debian, |archive| archive.value) {
            Archive::Debian if of_security => {
                let what = format!("`{name}` is not in Debian's main archive");
                self.findings.add(&suite.span, what, "add `archive: security`");
            }
            Archive::Security if !of_security => {
                let what = format!("`{name}` is not in the security archive");
                self.findings.add(&suite.span, what, format!("did you mean `{name}-security`?"));
            }
            _ => {}
        }
    }

    fn scripts(&mut self, raw: Option<Located<List<ProjectPath>>>) -> Vec<ProjectPath> {
        let Some(raw) = raw else { return Vec::new() };
        for Located { span, value } in &raw.value {
            match self.around.file(value) {
                ProjectFile::Executable => {}
                ProjectFile::Plain => {
                    let help = format!("chmod +x {value}");
                    self.findings.add(span, format!("`{value}` is not executable"), help);
                }
                ProjectFile::Missing => {
                    let what = format!("no script `{value}`");
                    self.findings.add(span, what, "paths start at the project root");
                }
            }
        }
        raw.value.into_iter().map(|path| path.value).collect()
    }

    pub(super) fn overlays(&mut self, raw: Option<Located<List<OverlayName>>>) -> Vec<OverlayName> {
        for Located { span, value } in raw.iter().flat_map(|raw| &raw.value) {
            if self.overlays.iter().any(|known| known == value.as_str()) {
                continue;
            }
            let known = || self.overlays.iter().map(String::as_str);
            let has = match self.overlays.len() {
                0 => "overlays/ is empty".to_owned(),
                _ => format!("overlays/ has {}", listed(known())),
            };
            let instead = did_you_mean(value.as_str(), known());
            self.findings.add_with_help(span, format!("no overlay `{value}`"), instead, has);
        }
        self.distinct(raw)
    }

    pub(super) fn image(&mut self, raw: Option<Located<RawFileSystem>>) -> Option<FileSystemOptions> {
        let Some(Located { value: raw, .. }) = raw else {
            return Some(FileSystemOptions {
                free: 64 * MIB,
                inode_size: InodeSize::Large,
                zero_freed: false,
            });
        };
        let free = self.size_within(raw.free, 64 * MIB, 0, 1024 * GIB, "free space");
        let inode_size = or(raw.inode_size, || InodeSize::Large);
        Some(FileSystemOptions { free: free?, inode_size, zero_freed: or(raw.zero_freed, || false) })
    }

    fn boot(&mut self, raw: Option<Located<RawBoot>>) -> Option<Boot> {
        let raw = raw.map(|raw| raw.value);
        let (xen, cmdline, modules, entries, timeout) = match raw {
            Some(raw) => (raw.xen, raw.cmdline, raw.modules, raw.entries, raw.timeout),
            None => (None, None, None, None, None),
        };
        let xen_at = xen.as_ref().map(at);
        let xen_given = has_xen(xen.as_ref());
        let xen = match xen.map(|xen| xen.value) {
            Some(Switch::On(raw)) => self.xen(raw).map(Some),
            Some(Switch::Faulty) => None,
            Some(Switch::Off) | None => Some(None),
        };
        let entries_given = entries.is_some();
        if let Some(given) = entries.as_ref().filter(|given| given.value.is_empty()) {
            self.findings.add(
                &given.span,
                "an empty menu",
                format!("allowed: {}", listed(MenuEntry::WORDS.iter().copied())),
            );
        }
        let of_xen = entries
            .iter()
            .flat_map(|entries| &entries.value)
            .find(|entry| entry.value == MenuEntry::Xen)
            .map(at);
        match (xen_given, of_xen, &xen_at) {
            (false, Some(entry), _) => {
                self.findings.add(&entry, "a menu entry `xen` without Xen", "add `xen: true` to `boot`");
            }
            (true, None, Some(xen)) if entries_given => {
                self.findings.add(
                    xen,
                    "no menu entry starts Xen",
                    "add `xen` to `entries`, or leave this out",
                );
            }
            _ => {}
        }
        let mut entries = self.distinct(entries);
        if !entries_given {
            entries = vec![MenuEntry::Linux, MenuEntry::Rescue];
            if xen_given {
                entries.insert(0, MenuEntry::Xen);
            }
        }
        let modules = match modules {
            Some(_) => self.distinct(modules),
            None => DEFAULT_MODULES.iter().map(|name| known::<Module>(name)).collect(),
        };
        let timeout = self.seconds(timeout, 3, 0, 3600);
        // At most 3,600, so it fits.
        let timeout = u32::try_from(timeout?).ok()?;
        Some(Boot { xen: xen?, cmdline: or(cmdline, || known("")), modules, entries, timeout })
    }

    fn xen(&mut self, raw: RawXen) -> Option<Xen> {
        let memory = self.memory_size(raw.memory, 900 * MIB, 256 * MIB);
        Some(Xen { memory: memory?, cmdline: or(raw.cmdline, || known("")) })
    }

    fn blocks(&mut self, raw: Option<Located<RawBlocks>>) -> Option<Blocks> {
        let (raw_size, raw_codec, raw_level) = match raw.map(|raw| raw.value) {
            Some(raw) => (raw.size, raw.codec, raw.level),
            None => (None, None, None),
        };
        let kind = or(raw_codec, || Codec::default().kind());
        let levels = u32::from(*kind.levels().start())..=u32::from(*kind.levels().end());
        let level =
            self.within(raw_level, kind.default_level().into(), levels, &format!("levels of {kind}"))?;
        // It is one of the codec's levels, so both steps give something.
        let codec = u8::try_from(level).ok().and_then(|level| kind.at(level).ok())?;
        Some(Blocks { size: or(raw_size, || BlockSize::DEFAULT), codec })
    }

    fn machine(&mut self, raw: Option<Located<RawMachine>>) -> Option<Machine> {
        let (memory, cpus) = match raw.map(|raw| raw.value) {
            Some(raw) => (raw.memory, raw.cpus),
            None => (None, None),
        };
        let memory = self.memory_size(memory, 2 * GIB, 256 * MIB);
        let cpus = self.within(cpus, 2, 1..=255, "processors");
        Some(Machine { memory: memory?, cpus: cpus? })
    }

    fn expect(&mut self, raw: Option<Located<RawExpect>>) -> Option<Expect> {
        let (timeout, lines) = match raw.map(|raw| raw.value) {
            Some(raw) => (raw.timeout, raw.lines),
            None => (None, None),
        };
        let timeout = self.seconds(timeout, 300, 1, 86_400);
        let lines = self.expected_lines(lines);
        Some(Expect { timeout: Duration::from_secs(timeout?), lines })
    }

    fn publish(&mut self, raw: Option<Located<RawPublish>>) -> Option<Publish> {
        const DAY: u64 = 86_400;
        let raw = raw.map(|raw| raw.value);
        let (targets, on_failure, times, keep, pin) = match raw {
            Some(raw) => (raw.targets, raw.on_failure, [raw.retain, raw.fresh, raw.grace], raw.keep, raw.pin),
            None => (None, None, [None, None, None], None, None),
        };
        let mut places: Vec<PublishTarget> = Vec::new();
        for Located { span, value } in targets.map(|targets| targets.value).unwrap_or_default() {
            let Some(to) = value.to else { continue };
            if places.iter().any(|other| other.to == to.value) {
                self.findings.add(&span, format!("`{}` is listed twice", to.value), "remove one of the two");
            }
            places.push(PublishTarget { to: to.value, url: value.url.map(|url| url.value) });
        }
        let [retain, fresh, grace] = times;
        let retain = self.seconds(retain, 90 * DAY, DAY, 36_500 * DAY);
        let fresh = self.seconds(fresh, 7 * DAY, 3600, 3650 * DAY);
        let grace = self.seconds(grace, 14 * DAY, 3600, 3650 * DAY);
        let keep = self.within(keep, 3, 1..=10_000, "releases to keep");
        let pin = self.distinct(pin);
        let on_failure = or(on_failure, || OnFailure::Continue);
        let (retain, fresh, keep, grace) = (retain?, fresh?, keep?, grace?);
        Some(Publish { targets: places, on_failure, retain, fresh, keep, grace, pin })
    }

    pub(super) fn expected_lines(&mut self, lines: Option<Located<List<Line>>>) -> Vec<Line> {
        for Located { span, value } in lines.iter().flat_map(|lines| &lines.value) {
            let made = render_text("", value.as_str(), crate::templates::context! { token => "0" });
            match made {
                Err(_) => {
                    let what = format!("`{value}` is not a template that uses `token` alone");
                    self.findings.add(span, what, "write `{{ token }}` for the random word of each boot");
                }
                Ok(made) if made.trim().is_empty() => {
                    self.findings.add(
                        span,
                        "an empty line matches any output",
                        "write a text that the system prints",
                    );
                }
                Ok(_) => {}
            }
        }
        self.distinct(lines)
    }

    /// The values of a list, in which nothing should be twice.
    pub(super) fn distinct<T: Ord + Clone + Display>(&mut self, raw: Option<Located<List<T>>>) -> Vec<T> {
        let mut seen = BTreeSet::new();
        let mut values = Vec::new();
        for Located { span, value } in raw.map(|raw| raw.value).unwrap_or_default() {
            if !seen.insert(value.clone()) {
                self.findings.add(&span, format!("`{value}` is listed twice"), "remove one of the two");
            }
            values.push(value);
        }
        values
    }

    pub(super) fn within(
        &mut self,
        raw: Option<Located<u32>>,
        default: u32,
        allowed: std::ops::RangeInclusive<u32>,
        of: &str,
    ) -> Option<u32> {
        let Some(Located { span, value }) = raw else { return Some(default) };
        if allowed.contains(&value) {
            return Some(value);
        }
        let instead = format!("allowed: {} to {}", allowed.start(), allowed.end());
        self.findings.add(&span, format!("{value} is out of the range of {of}"), instead);
        None
    }

    pub(super) fn size_within(
        &mut self,
        raw: Option<Located<Size>>,
        default: u64,
        least: u64,
        most: u64,
        of: &str,
    ) -> Option<u64> {
        let Some(Located { span, value: Size(value) }) = raw else { return Some(default) };
        if (least..=most).contains(&value) {
            return Some(value);
        }
        let instead = format!("allowed: {} to {}", size(least), size(most));
        self.findings.add(&span, format!("{} of {of}", size(value)), instead);
        None
    }

    /// Memory is given out in MiB.
    pub(super) fn memory_size(
        &mut self,
        raw: Option<Located<Size>>,
        default: u64,
        least: u64,
    ) -> Option<u64> {
        let span = raw.as_ref().map(at).unwrap_or_default();
        let value = self.size_within(raw, default, least, 16 << 40, "memory")?;
        if value.is_multiple_of(MIB) {
            return Some(value);
        }
        self.findings.add(
            &span,
            "memory must be a multiple of 1 MiB",
            format!("write `{}MiB`", value.div_ceil(MIB)),
        );
        None
    }

    fn seconds(&mut self, raw: Option<Located<Seconds>>, default: u64, least: u64, most: u64) -> Option<u64> {
        let Some(Located { span, value: Seconds(value) }) = raw else { return Some(default) };
        if (least..=most).contains(&value) {
            return Some(value);
        }
        self.findings.add(&span, format!("a time of {value} s"), format!("allowed: {least}s to {most}s"));
        None
    }
}

/// Whether there is to be Xen, right or wrong.
fn has_xen(given: Option<&Located<Switch<RawXen>>>) -> bool {
    given.is_some_and(|given| !matches!(given.value, Switch::Off))
}

/// Every name is a host name too.
pub(super) fn host_name(name: &ImageName) -> HostName {
    known(name.as_str())
}

pub(super) fn at<T>(located: &Located<T>) -> Span {
    located.span.clone()
}
