//! The same declaration gives the same bytes, whatever the number of jobs, threads and prompts at once.

use crate::{
    mini::MINI,
    support::{Sandbox, files},
};

#[test]
fn two_fresh_caches_agree() {
    let outputs = |jobs: &str, threads: &str| {
        let sandbox = Sandbox::with(MINI);
        let args = ["run", "p.yaml", "--jobs", jobs];
        let output = sandbox.command(&args).env("RAYON_NUM_THREADS", threads).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let out: Vec<_> =
            ["out/figure2.csv", "out/figure2.svg", "out/figure2.png"].map(|file| sandbox.read(file)).into();
        let objects = sandbox.file(".palinode/objects");
        // Names are digests: the same names are the same bytes.
        let names: Vec<_> =
            files(&objects).iter().map(|path| path.strip_prefix(&objects).unwrap().to_owned()).collect();
        (names, out)
    };
    let (one, two) = (outputs("1", "1"), outputs("2", "2"));
    assert_eq!(one.0, two.0);
    assert!(one.1 == two.1, "published figures differ");
}
