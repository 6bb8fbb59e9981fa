//! Walks over what is named by digest: `objects/ab/cdef...` and its like.

use std::{
    fs::{self, DirEntry, Metadata},
    io,
    path::{Path, PathBuf},
};

use crate::{
    Cache, Digest,
    error::{CacheError, io},
};

/// Something that is named by a digest.
pub(crate) struct Named<K> {
    pub(crate) digest: Digest<K>,
    pub(crate) path: PathBuf,
    pub(crate) meta: Metadata,
}

impl Cache {
    /// Everything in the folder `dir` that is named by a digest, in order. What has another name is none of ours, and
    /// what vanishes meanwhile is passed over.
    pub(crate) fn walk<K>(&self, dir: &str) -> Result<Vec<Named<K>>, CacheError> {
        let mut found = Vec::new();
        for spread in entries(&self.dir(dir))? {
            let first = spread.file_name();
            let Some(first) = first.to_str().filter(|name| name.len() == 2) else { continue };
            if !spread.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            for entry in entries(&spread.path())? {
                let name = entry.file_name();
                let Some(Ok(digest)) = name.to_str().map(|rest| format!("{first}{rest}").parse()) else { continue };
                let path = entry.path();
                match entry.metadata() {
                    Ok(meta) => found.push(Named { digest, path, meta }),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(io("read", path)(error)),
                }
            }
        }
        Ok(found)
    }
}

/// The entries of a folder in order of name; none if it isn't there.
pub(crate) fn entries(dir: &Path) -> Result<Vec<DirEntry>, CacheError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(Iterator::collect::<io::Result<Vec<_>>>),
    };
    let mut entries = entries.map_err(io("read the folder", dir))?;
    entries.sort_by_key(DirEntry::file_name);
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Blob,
        testing::{cache, entry},
    };

    #[test]
    fn only_what_is_named_by_a_digest_is_found() {
        let (_dir, cache) = cache();
        assert!(cache.walk::<Blob>("objects").unwrap().is_empty());
        let mut blobs = [b"a", b"b"].map(|bytes| cache.put_bytes(bytes).unwrap().blob);
        blobs.sort();
        for junk in ["objects/junk", "objects/ab/junk", "objects/zz", "objects/toolong/a"] {
            let path = cache.root().join(junk);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "junk").unwrap();
        }
        let found = cache.walk::<Blob>("objects").unwrap();
        assert_eq!(found.iter().map(|named| named.digest).collect::<Vec<_>>(), blobs);
        assert_eq!(found[0].meta.len(), 1);
        fs::remove_dir_all(cache.root().join("objects")).unwrap();
        assert!(cache.walk::<Blob>("objects").unwrap().is_empty());
        assert_eq!(cache.locate(&entry(b"a")).unwrap(), None);
    }
}
