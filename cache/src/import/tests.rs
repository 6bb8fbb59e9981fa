use std::{fs, os::unix::fs::PermissionsExt as _};

use super::*;
use crate::{
    FileTree, Part, Usage,
    testing::{cache, names, record},
};

/// A result of its own bytes.
fn result(cache: &Cache, seed: u64, sources: &[StageKey]) -> Record {
    let mut record = record(seed);
    let file = cache.put_bytes(format!("output {seed}").as_bytes()).unwrap();
    record.outputs = BTreeMap::from([("out".to_owned(), FileTree(BTreeMap::from([("a".to_owned(), file)])))]);
    record.log = cache.put_bytes(b"log").unwrap();
    record.sources = BTreeMap::from([("in".to_owned(), sources.to_vec())]);
    cache.publish(&record).unwrap();
    record
}

fn asked(records: &[&Record]) -> BTreeMap<String, StageKey> {
    records.iter().map(|record| (record.execution.address.clone(), record.key)).collect()
}

/// An archive of `b`, made from `a`; there is an unrelated `c`.
fn exported() -> (tempfile::TempDir, PathBuf, [Record; 2]) {
    let (dir, cache) = cache();
    let a = result(&cache, 1, &[]);
    let b = result(&cache, 2, &[a.key]);
    result(&cache, 3, &[]);
    let path = dir.path().join("b.tar");
    let report = cache.export(&asked(&[&b]), &path).unwrap();
    assert_eq!((report.results, report.blobs, report.missing), (2, 3, 0));
    (dir, path, [a, b])
}

fn empty() -> (tempfile::TempDir, Cache) {
    cache()
}

fn nothing_in(cache: &Cache) -> bool {
    ["objects", "records"].iter().all(|dir| Usage::of(&cache.root().join(dir)).unwrap() == Usage::default())
}

#[track_caller]
fn refused(path: &Path, words: &str) {
    let (_dir, cache) = empty();
    let error = cache.import(path).unwrap_err().to_string();
    assert!(error.contains(words), "`{words}` is missing in: {error}");
    assert!(nothing_in(&cache), "all or nothing");
    let root = cache.root().to_owned();
    drop(cache);
    assert_eq!(names(&Cache::open(&root).unwrap(), "tmp"), [""; 0]);
}

/// The archive's entries: name, type, size that the header tells, bytes.
type Entries = Vec<(String, u8, Option<u64>, Vec<u8>)>;

fn entries(path: &Path) -> Entries {
    let mut tar = tar::Archive::new(File::open(path).unwrap());
    let read = |entry: std::io::Result<tar::Entry<'_, File>>| {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (String::from_utf8(entry.path_bytes().into_owned()).unwrap(), b'0', None, bytes)
    };
    tar.entries().unwrap().map(read).collect()
}

/// Writes an archive as no careful program would.
fn rebuilt(path: &Path, entries: &Entries) {
    let mut bytes = Vec::new();
    for (name, kind, size, body) in entries {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(size.unwrap_or(body.len() as u64));
        header.set_mode(0o644);
        header.as_mut_bytes()[156] = *kind;
        if *kind == b'2' {
            header.set_link_name_literal("/etc/passwd").unwrap();
        }
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    fs::write(path, bytes).unwrap();
}

#[test]
fn what_is_imported_is_as_it_was_exported() {
    let (dir, path, [a, b]) = exported();
    let (_dir, other) = empty();
    let report = other.import(&path).unwrap();
    assert_eq!((report.new, report.known, report.blobs), (2, 0, 3));
    assert_eq!(report.asked_for, asked(&[&b]));
    for record in [&a, &b] {
        assert_eq!(other.record(&record.key).unwrap().as_ref(), Some(record));
        let blob = other.locate(&record.outputs["out"].0["a"]).unwrap().unwrap();
        assert_eq!(fs::metadata(blob).unwrap().permissions().mode() & 0o777, 0o444);
    }
    assert!(other.record(&record(3).key).unwrap().is_none());
    assert!(other.verify(&|_| ()).unwrap().sound());
    let again = other.import(&path).unwrap();
    assert_eq!((again.new, again.known, again.differing.len()), (0, 2, 0));
    let back = dir.path().join("back.tar");
    other.export(&asked(&[&b]), &back).unwrap();
    assert_eq!(fs::read(back).unwrap(), fs::read(path).unwrap(), "the same results give the same bytes");
}

#[test]
fn what_was_here_first_stays() {
    let (_dir, path, [a, _]) = exported();
    let (_dir, other) = empty();
    let mut ours = a.clone();
    ours.outputs.get_mut("out").unwrap().0.insert("b".to_owned(), other.put_bytes(b"ours").unwrap());
    other.publish(&ours).unwrap();
    let report = other.import(&path).unwrap();
    assert_eq!((report.new, report.known), (1, 1));
    assert_eq!(report.differing, ["completions[seed=1]"]);
    assert_eq!(other.record(&a.key).unwrap(), Some(ours));
}

#[test]
fn cut_short_anywhere_nothing_is_taken() {
    let (dir, path, _) = exported();
    let bytes = fs::read(&path).unwrap();
    let short = dir.path().join("short.tar");
    for len in (0..bytes.len() - 1024).step_by(331) {
        fs::write(&short, &bytes[..len]).unwrap();
        let (_dir, cache) = empty();
        assert!(cache.import(&short).is_err(), "{len} of {}", bytes.len());
        assert!(nothing_in(&cache));
    }
}

#[test]
fn altered_anywhere_it_is_refused_or_all_the_same() {
    let (dir, path, [a, b]) = exported();
    let bytes = fs::read(&path).unwrap();
    let altered = dir.path().join("altered.tar");
    for place in (0..bytes.len()).step_by(97) {
        let mut bytes = bytes.clone();
        bytes[place] ^= 1;
        fs::write(&altered, bytes).unwrap();
        let (_dir, cache) = empty();
        match cache.import(&altered) {
            Err(_) => assert!(nothing_in(&cache), "byte {place}"),
            // Padding, and what no one reads of a header.
            Ok(_) => {
                assert!([&a, &b].iter().all(|r| cache.record(&r.key).unwrap().as_ref() == Some(r)), "byte {place}")
            }
        }
    }
}

#[test]
fn archives_of_bad_intent_are_refused() {
    let (dir, path, _) = exported();
    let evil = dir.path().join("evil.tar");
    let whole = entries(&path);
    let mut cases: Vec<(&str, Entries)> = Vec::new();
    let mut case = |words, change: &dyn Fn(&mut Entries)| {
        let mut entries = whole.clone();
        change(&mut entries);
        cases.push((words, entries));
    };
    let file = |name: &str| (name.to_owned(), b'0', None, b"x".to_vec());
    for name in ["../../etc/cron.d/x", "/etc/passwd", "objects/../../x", "objects", "records/x", "palinode.json"] {
        case("is not in its list of contents", &|entries| entries.push(file(name)));
    }
    for (kind, body) in
        [(b'2', &b""[..]), (b'1', b""), (b'5', b""), (b'3', b""), (b'6', b""), (b'L', b"long"), (b'x', b"9 a=b\n")]
    {
        case("is not a plain file", &|entries| entries.insert(1, ("objects/x".to_owned(), kind, None, body.to_vec())));
        case("is not a plain file", &|entries| entries[0].1 = kind);
    }
    case("is there twice", &|entries| entries.push(entries[1].clone()));
    case("is there twice", &|entries| entries.push(entries.last().unwrap().clone()));
    case("is missing: the archive is cut short", &|entries| drop(entries.pop()));
    case("is missing: the archive is cut short", &|entries| drop(entries.remove(1)));
    case("does not hold the bytes of its name", &|entries| entries.last_mut().unwrap().3[0] ^= 1);
    case("has another size than its list", &|entries| entries.last_mut().unwrap().2 = Some(1 << 40));
    case("claims 1099511627776 bytes", &|entries| entries[0].2 = Some(1 << 40));
    case("does not begin with `palinode.json`", &|entries| drop(entries.remove(0)));
    case("is no sound record", &|entries| entries[1].3[200] ^= 1);
    case("it is empty", &|entries| entries.clear());
    case("has format 2", &|entries| edit(&mut entries[0].3, "\"palinode_archive\": 1", "\"palinode_archive\": 2"));
    case("unknown field", &|entries| edit(&mut entries[0].3, "{", "{\"more\": 1,"));
    for (words, entries) in cases {
        rebuilt(&evil, &entries);
        refused(&evil, words);
    }
    refused(dir.path(), "it is not a file");
    refused(&dir.path().join("none"), "no such file");
    fs::write(&evil, "no tar at all".repeat(100)).unwrap();
    refused(&evil, "it is no sound tar file");
}

fn edit(bytes: &mut Vec<u8>, old: &str, new: &str) {
    *bytes = String::from_utf8(bytes.clone()).unwrap().replacen(old, new, 1).into_bytes();
}

#[test]
fn lists_that_promise_too_much_or_name_what_is_no_ones_are_refused() {
    let (dir, path, [_, b]) = exported();
    let evil = dir.path().join("evil.tar");
    let whole = entries(&path);
    let mut contents: Contents = serde_json::from_slice(&whole[0].3).unwrap();
    contents.blobs.insert(Digest::of(b"large"), u64::MAX);
    let mut entries = whole.clone();
    entries[0].3 = serde_json::to_vec(&contents).unwrap();
    rebuilt(&evil, &entries);
    refused(&evil, "promises more bytes than it has");

    contents.blobs.remove(&Digest::of(b"large"));
    contents.blobs.insert(Digest::of(b"stray"), 5);
    entries[0].3 = serde_json::to_vec(&contents).unwrap();
    entries.push((format!("objects/{}", BlobDigest::of(b"stray")), b'0', None, b"stray".to_vec()));
    rebuilt(&evil, &entries);
    refused(&evil, "belongs to no result");

    let lost = b.outputs["out"].0["a"].blob;
    let mut contents: Contents = serde_json::from_slice(&whole[0].3).unwrap();
    contents.blobs.remove(&lost);
    let mut entries = whole.clone();
    entries[0].3 = serde_json::to_vec(&contents).unwrap();
    entries.retain(|(name, ..)| !name.ends_with(&lost.hex()));
    rebuilt(&evil, &entries);
    refused(&evil, "`a` of completions[seed=2] is not in it");
}

#[test]
fn names_in_records_can_not_lead_out_of_a_folder() {
    for name in ["../x", "/etc/x", "a/../../x", "a//b", "", "a/."] {
        let (dir, cache) = cache();
        let mut record = result(&cache, 1, &[]);
        cache.forget(&record.key).unwrap();
        let file = record.outputs["out"].0["a"];
        record.outputs.insert("out".to_owned(), FileTree(BTreeMap::from([(name.to_owned(), file)])));
        cache.publish(&record).unwrap();
        let path = dir.path().join("evil.tar");
        cache.export(&asked(&[&record]), &path).unwrap();
        refused(&path, "has an output file with the name");
    }
}

#[test]
fn what_is_not_all_there_is_not_exported() {
    let (dir, cache) = cache();
    let a = result(&cache, 1, &[]);
    let b = result(&cache, 2, &[a.key]);
    let path = dir.path().join("b.tar");
    fs::remove_file(cache.locate(&a.outputs["out"].0["a"]).unwrap().unwrap()).unwrap();
    let error = cache.export(&asked(&[&a]), &path).unwrap_err().to_string();
    assert_eq!(error, "completions[seed=1]: `out/a` is no longer in the cache; run it again");
    assert!(!path.exists());
    let report = cache.export(&asked(&[&b]), &path).unwrap();
    assert_eq!((report.results, report.missing), (1, 1), "an ancestor that is gone leaves a gap");
    let (_dir, other) = empty();
    assert_eq!(other.import(&path).unwrap().new, 1);
    cache.forget(&b.key).unwrap();
    let error = cache.export(&asked(&[&b]), &path).unwrap_err().to_string();
    assert!(error.ends_with("its record is not in the cache"), "{error}");
}

#[test]
fn what_is_imported_is_collected_like_the_rest() {
    let (_dir, path, [_, b]) = exported();
    let (dir, other) = empty();
    other.import(&path).unwrap();
    let root = other.root().to_owned();
    drop(other);
    let other = Cache::open(&root).unwrap();
    let lock = other.exclusive(|| ()).unwrap();
    let kept = other.gc(&BTreeSet::from([b.key]), Default::default(), Some(&lock)).unwrap().kept;
    assert_eq!(kept.0[&Part::Records].files, 2);
    drop((lock, dir));
}
