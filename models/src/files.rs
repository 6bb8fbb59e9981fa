//! Where a model's files lie. Names and places are apart: in a content-addressed store a file has a digest for
//! its name, and what it is called in the model's folder is known elsewhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{ModelError, Result};

/// Relative name (`/` between parts) to place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelFiles(BTreeMap<String, PathBuf>);

impl ModelFiles {
    /// All files in and below a folder.
    pub fn folder(root: impl AsRef<Path>) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut folders = vec![(String::new(), root.as_ref().to_path_buf())];
        while let Some((prefix, folder)) = folders.pop() {
            for entry in std::fs::read_dir(&folder).map_err(|error| ModelError::io(&folder, error))? {
                let entry = entry.map_err(|error| ModelError::io(&folder, error))?;
                let path = entry.path();
                let Ok(name) = entry.file_name().into_string() else { continue };
                if path.is_dir() {
                    folders.push((format!("{prefix}{name}/"), path));
                } else {
                    files.insert(format!("{prefix}{name}"), path);
                }
            }
        }
        Ok(ModelFiles(files))
    }

    /// Where a file lies, if the model has it.
    pub fn get(&self, name: &str) -> Option<&Path> {
        self.0.get(name).map(PathBuf::as_path)
    }

    /// Where a file lies that the model must have.
    pub fn require(&self, name: &str) -> Result<&Path> {
        self.get(name).ok_or_else(|| ModelError::MissingFile { name: name.to_owned() })
    }

    /// The text of a file, if the model has it.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(path) = self.get(name) else { return Ok(None) };
        std::fs::read_to_string(path).map(Some).map_err(|error| ModelError::io(path, error))
    }

    /// The files whose names begin with `prefix`, by the rest of their names.
    pub fn below(&self, prefix: &str) -> ModelFiles {
        self.0.iter().filter_map(|(name, path)| Some((name.strip_prefix(prefix)?, path))).collect()
    }

    /// Names and places, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.0.iter().map(|(name, path)| (name.as_str(), path.as_path()))
    }
}

impl<N: Into<String>, P: Into<PathBuf>> FromIterator<(N, P)> for ModelFiles {
    fn from_iter<I: IntoIterator<Item = (N, P)>>(files: I) -> Self {
        ModelFiles(files.into_iter().map(|(name, path)| (name.into(), path.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_and_a_part_of_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("base")).unwrap();
        std::fs::write(folder.path().join("base/config.json"), "{}").unwrap();
        let files = ModelFiles::folder(folder.path()).unwrap();
        assert!(files.get("config.json").is_none());
        assert_eq!(files.below("base/").text("config.json").unwrap().as_deref(), Some("{}"));
        assert_eq!(files.require("x").unwrap_err().to_string(), "the model has no `x`");
    }
}
