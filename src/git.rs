//! The state of the git checkout that a pipeline lies in, for the records of what is made with it.

use std::{
    path::Path,
    process::{Command, Stdio},
};

/// The commit that is checked out where `dir` is, with `-dirty` if tracked files were modified; `None` if there is no
/// checkout, no commit, or no git.
pub(crate) fn state(dir: &Path) -> Option<String> {
    let mut git = Command::new("git");
    // A look must not take a lock that a user's own git would then miss, nor ask for anything.
    git.args(["--no-optional-locks", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]);
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let output = git.current_dir(dir).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    if !output.status.success() {
        return None;
    }
    parse(&String::from_utf8_lossy(&output.stdout))
}

fn parse(status: &str) -> Option<String> {
    let commit = status.lines().find_map(|line| line.strip_prefix("# branch.oid "))?;
    if !commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let dirty = status.lines().any(|line| !line.starts_with('#'));
    Some(format!("{commit}{}", if dirty { "-dirty" } else { "" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_and_whether_files_were_modified() {
        let clean = "# branch.oid 0123abcd\n# branch.head main\n";
        assert_eq!(parse(clean).as_deref(), Some("0123abcd"));
        let modified = format!("{clean}1 .M N... 100644 100644 100644 01 01 file\n");
        assert_eq!(parse(&modified).as_deref(), Some("0123abcd-dirty"));
        assert_eq!(parse("# branch.oid (initial)\n"), None);
        assert_eq!(parse(""), None);
    }
}
