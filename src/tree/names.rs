//! passwd(5) and group(5): names and their ids.

use std::collections::BTreeMap;

/// Ids by name out of the text of /etc/passwd or /etc/group: fields 3 and 1. Lines that have none are passed
/// over; of a name given twice the first counts, as for the C library.
pub(crate) fn ids(text: &[u8]) -> BTreeMap<Vec<u8>, u32> {
    let mut ids = BTreeMap::new();
    for line in text.split(|&byte| byte == b'\n') {
        let mut fields = line.split(|&byte| byte == b':');
        let (Some(name), Some(id)) = (fields.next(), fields.nth(1)) else { continue };
        if let Some(id) = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok()) {
            ids.entry(name.to_vec()).or_insert(id);
        }
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_first_id_given() {
        let ids = ids(b"root:x:0:0::/:\n\nbroken\nann:x:x\nann:x:7:\nann:x:8:\nadm:x:4:ann");
        let expected = [(b"adm".to_vec(), 4), (b"ann".to_vec(), 7), (b"root".to_vec(), 0)];
        assert_eq!(ids.into_iter().collect::<Vec<_>>(), expected);
    }
}
