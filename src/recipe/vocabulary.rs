//! How a recipe writes what other rooms have types for: names of images, URLs of mirrors, checksums, blocks,
//! inodes. What is wrong with one is told in the words of recipes; what is right is the other room's own type.

use std::borrow::Cow;

use formats::block::CodecKind;
use formats::digest::Sha256;
use formats::names::{BlockSize, ImageName};
use formats::url::MirrorUrl;
use schemars::{Schema, SchemaGenerator};

use super::values::{Size, check_url, is_label, lower_or_digit, unless, word_schema};
use crate::ext2::InodeSize;
use crate::yaml::shape::{HasSchema, Scalar, Wrong, not_one_of};

impl Scalar for ImageName {
    const KIND: &str = "a name";

    /// A name of a recipe or an image becomes part of host names and unit names too, so there is less of it than
    /// the formats allow.
    fn read(text: &str) -> Result<Self, Wrong> {
        let instead = "write 1 to 63 of a-z, 0-9 and -, which neither begins nor ends it";
        let name = unless(is_label(text, lower_or_digit), text, Self::KIND, instead)?;
        name.parse().map_err(|error| Wrong::new(format!("{error}"), instead))
    }
}

impl HasSchema for ImageName {
    fn schema_name() -> Cow<'static, str> {
        "Name".into()
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        word_schema("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", Self::KIND)
    }
}

impl Scalar for MirrorUrl {
    const KIND: &str = "a URL";

    fn read(text: &str) -> Result<Self, Wrong> {
        let wrong = |instead| Wrong::new(format!("`{text}` is not the URL of a mirror"), instead);
        check_url(text).map_err(wrong)?;
        MirrorUrl::typed(text).map_err(|_| wrong("write at most 256 characters, all of them ASCII"))
    }
}

impl HasSchema for MirrorUrl {
    fn schema_name() -> Cow<'static, str> {
        "Url".into()
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        word_schema("^https?://[^ ?#]+$", Self::KIND)
    }
}

impl Scalar for Sha256 {
    const KIND: &str = "a SHA-256";

    fn read(text: &str) -> Result<Self, Wrong> {
        let instead = "write 64 digits of 0-9 and a-f, as sha256sum prints them";
        text.parse().map_err(|_| Wrong::new(format!("`{text}` is not {}", Self::KIND), instead))
    }
}

impl HasSchema for Sha256 {
    fn schema_name() -> Cow<'static, str> {
        "Sha256Hex".into()
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        word_schema("^[0-9a-f]{64}$", Self::KIND)
    }
}

impl Scalar for BlockSize {
    const KIND: &str = Size::KIND;

    fn read(text: &str) -> Result<Self, Wrong> {
        let Size(size) = Size::read(text)?;
        u32::try_from(size).ok().and_then(BlockSize::new).ok_or_else(|| {
            let instead = "allowed: multiples of 4KiB from 4KiB to 4MiB; 256KiB is usual";
            Wrong::new(format!("blocks of {size} bytes"), instead)
        })
    }
}

impl HasSchema for BlockSize {
    fn schema_name() -> Cow<'static, str> {
        Size::schema_name()
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        Size::schema(generator)
    }
}

impl Scalar for CodecKind {
    const KIND: &str = "a codec";

    fn read(text: &str) -> Result<Self, Wrong> {
        let kind = CodecKind::ALL.into_iter().find(|kind| kind.name() == text);
        kind.ok_or_else(|| not_one_of(text, Self::KIND, &CodecKind::ALL.map(CodecKind::name)))
    }
}

impl HasSchema for CodecKind {
    fn schema_name() -> Cow<'static, str> {
        "Codec".into()
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "enum": CodecKind::ALL.map(CodecKind::name) })
    }
}

impl Scalar for InodeSize {
    const KIND: &str = "an inode size";

    fn read(text: &str) -> Result<Self, Wrong> {
        let size = InodeSize::ALL.into_iter().find(|size| size.bytes().to_string() == text);
        size.ok_or_else(|| Wrong::new(format!("`{text}` is not an inode size"), "allowed: `128`, `256`"))
    }
}

impl HasSchema for InodeSize {
    fn schema_name() -> Cow<'static, str> {
        "InodeSize".into()
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "enum": InodeSize::ALL.map(InodeSize::bytes) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::values::tests::said;
    use super::*;

    #[test]
    fn urls_of_mirrors_end_with_a_slash_and_have_a_host() {
        for (text, url) in [
            ("http://10.0.2.2:8080/", "http://10.0.2.2:8080/"),
            ("https://mirror.example/demo", "https://mirror.example/demo/"),
            ("http://[fe80::1]:80", "http://[fe80::1]:80/"),
        ] {
            assert_eq!(MirrorUrl::read(text).unwrap().as_str(), url, "{text}");
        }
        for (text, instead) in [
            ("mirror.example", "write it like `http://mirror.example/demo/`"),
            ("ftp://mirror.example/", "use `http` or `https`"),
            ("http://", "after `://` comes a host, with `:port` if need be"),
            ("http:///demo", "after `://` comes a host, with `:port` if need be"),
            ("http://mirror.example:x/", "after `://` comes a host, with `:port` if need be"),
            ("http://[::g]/", "after `://` comes a host, with `:port` if need be"),
            ("http://a..b/", "after `://` comes a host, with `:port` if need be"),
            ("http://a/?q", "it may not have user names, `?`, `#`, spaces, commas or quotes"),
            ("http://größe.example/", "after `://` comes a host, with `:port` if need be"),
            ("http://a.example/größe/", "write at most 256 characters, all of them ASCII"),
            (
                &format!("http://a.example/{}", "x".repeat(256)),
                "write at most 256 characters, all of them ASCII",
            ),
            ("http://eve:x@a/", "it may not have user names, `?`, `#`, spaces, commas or quotes"),
        ] {
            assert_eq!(said::<MirrorUrl>(text), format!("`{text}` is not the URL of a mirror; {instead}"));
        }
    }

    #[test]
    fn names_are_labels() {
        for text in ["demo", "a", "net-bsd2"] {
            assert_eq!(ImageName::read(text).unwrap().as_str(), text);
        }
        let instead = "write 1 to 63 of a-z, 0-9 and -, which neither begins nor ends it";
        for text in ["", "Demo", "-a", "a-", "a_b", "é", "a/b", &"x".repeat(64)] {
            assert_eq!(said::<ImageName>(text), format!("`{text}` is not a name; {instead}"));
        }
    }

    #[test]
    fn block_sizes_are_those_of_an_index() {
        assert_eq!(BlockSize::read("256KiB"), Ok(BlockSize::DEFAULT));
        let instead = "allowed: multiples of 4KiB from 4KiB to 4MiB; 256KiB is usual";
        for (text, bytes) in [("0", 0), ("6KiB", 6144), ("8MiB", 8_388_608), ("1TiB", 1_u64 << 40)] {
            assert_eq!(said::<BlockSize>(text), format!("blocks of {bytes} bytes; {instead}"));
        }
    }
}
