//! A figure can be asked where it came from, wherever it lies.

use crate::{mini::MINI, support::Sandbox};

#[test]
fn a_figure_knows_where_it_is_from() {
    let sandbox = Sandbox::with(MINI);
    sandbox.run(&[]);
    let away = Sandbox::new();
    for (from, to) in [("out/figure2.svg", "mailed.svg"), ("out/figure2.png", "a b.png")] {
        away.write(to, sandbox.read(from));
        let audit = away.call(&["audit", to]).ok().stdout;
        for word in ["intact", "corpus.planted", "pretrain", "finetune", "seed", "rank", "figure2"] {
            assert!(audit.contains(word), "`{word}` is missing in:\n{audit}");
        }
        let json = away.call(&["audit", to, "--format", "json"]).ok().json();
        assert!(json["lineage"]["nodes"].as_object().unwrap().len() > 10);
    }
    let cache = sandbox.file(".palinode");
    away.call(&["audit", "mailed.svg", "--cache", cache.to_str().unwrap()]).ok();
}

#[test]
fn one_changed_byte_is_noticed() {
    let sandbox = Sandbox::with(MINI);
    sandbox.run(&[]);
    for name in ["out/figure2.svg", "out/figure2.png"] {
        let whole = sandbox.read(name);
        for at in (0..whole.len()).step_by(whole.len() / 12) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            sandbox.write("changed", bytes);
            let ran = sandbox.call(&["audit", "changed"]).code(1);
            assert!(ran.stdout.contains("altered"), "{}", ran.stdout);
        }
    }
    // The next run puts the right file back.
    sandbox.write("out/figure2.svg", "<svg/>");
    assert_eq!(sandbox.run(&[])["executed"], 0);
    sandbox.call(&["audit", "out/figure2.svg"]).ok();
}
