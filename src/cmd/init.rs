//! `palinode init`: a commented pipeline to start from, which runs at once, and the schema that lets editors check it.

use std::{fs, io::Write as _, path::Path};

use crate::{
    cli::Init,
    exit::Exit,
    output::{Failure, out},
};

const PIPELINE: &str = "pipeline.yaml";
const SCHEMA: &str = "palinode.schema.json";

pub(crate) fn init(args: &Init) -> Result<Exit, Failure> {
    let starter = include_str!("init/pipeline.yaml");
    let ignore = "# Results and figures are made by `palinode run`.\n/.palinode/\n/out/\n";
    let schema = super::schema::text();
    let files = [(PIPELINE, starter), (SCHEMA, &schema), (".gitignore", ignore)];
    // All or nothing: what a user has is never written over, nor mixed with ours.
    if let Some((name, _)) = files[..2].iter().find(|(name, _)| args.dir.join(name).symlink_metadata().is_ok()) {
        let there = args.dir.join(name);
        return Err(Failure::usage(format!("{} is there already; nothing was written", there.display()))
            .hint("give another folder: `palinode init FOLDER`"));
    }
    fs::create_dir_all(&args.dir).map_err(|error| failed(&args.dir, &error))?;
    let mut text = String::new();
    for (name, content) in files {
        let path = args.dir.join(name);
        let made = fs::File::options().write(true).create_new(true).open(&path);
        match made.and_then(|mut file| file.write_all(content.as_bytes())) {
            Ok(()) => text.push_str(&format!("wrote {}\n", path.display())),
            // A folder under version control has one.
            Err(error) if name == ".gitignore" && error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(&path, &error)),
        }
    }
    text.push_str(&format!("next: palinode run {}\n", args.dir.join(PIPELINE).display()));
    out(&text)
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!("{}: {error}", path.display()))
}
