//! What this machine has that stages may use: found out, or told on the command line.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::available_parallelism,
};

use palinode_engine::{execute::RunOptions, spec::mebibytes};

use crate::cli::Resources;

/// Options of a run that may use what `given` says, and for the rest what there is.
pub(crate) fn options(given: &Resources) -> RunOptions {
    let cpus = given.cpus.map_or_else(cpus, usize::from);
    let gpus = match &given.gpus {
        Some(gpus) => gpus.ids(&detected_gpus(), env::var_os("CUDA_VISIBLE_DEVICES").is_some()),
        None => detected_gpus(),
    };
    let memory_mib = given.memory.or_else(memory);
    RunOptions { jobs: cpus, cpus: Some(cpus), gpus, gpu_locks: Some(locks()), memory_mib, ..RunOptions::default() }
}

/// What `--gpus` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Gpus {
    /// That many, the first ones.
    Count(usize),
    /// These ids.
    Ids(Vec<usize>),
}

impl Gpus {
    /// `2` is a number of GPUs; `0,3`, or `3,` for a single one, are ids.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let expected = || "expected how many (`2`), or ids with commas (`0,3`; a single one: `3,`)".to_owned();
        if let Ok(count) = text.trim().parse() {
            return if count <= 1024 { Ok(Self::Count(count)) } else { Err(expected()) };
        }
        let ids: BTreeSet<usize> = text
            .split(',')
            .map(str::trim)
            .filter(|id| !id.is_empty())
            .map(|id| id.parse().map_err(|_| expected()))
            .collect::<Result<_, _>>()?;
        if ids.is_empty() { Err(expected()) } else { Ok(Self::Ids(ids.into_iter().collect())) }
    }

    /// The ids that are meant where `detected` were found. More than were found is what the user knows better, unless
    /// these are `assigned` and all others somebody else's.
    fn ids(&self, detected: &[usize], assigned: bool) -> Vec<usize> {
        match self {
            Self::Ids(ids) => ids.clone(),
            Self::Count(count) => {
                let further = (0..).filter(|id| !detected.contains(id)).take(if assigned { 0 } else { *count });
                detected.iter().copied().chain(further).take(*count).collect()
            }
        }
    }
}

/// What `--memory` says: `32GiB`, or a number of MiB.
pub(crate) fn parse_memory(text: &str) -> Result<u64, String> {
    let mib = text.trim().parse().ok().or_else(|| mebibytes(text));
    mib.ok_or_else(|| "expected an amount like `32GiB`, or a number of MiB".to_owned())
}

fn cpus() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// Memory in MiB: the machine's, or less where this process's control group may use less.
fn memory() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? >> 10)
    });
    let group = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|file| Some(fs::read_to_string(file).ok()?.trim().parse::<u64>().ok()? >> 20));
    machine.into_iter().chain(group).min()
}

/// The ids of the GPUs that programs started here would see. `CUDA_VISIBLE_DEVICES` may have narrowed them already.
fn detected_gpus() -> Vec<usize> {
    let present = present_gpus();
    match env::var("CUDA_VISIBLE_DEVICES") {
        Ok(visible) => assigned_gpus(&visible, &present),
        Err(_) => present,
    }
}

/// As CUDA does: what follows something that is no device doesn't count. Names (`GPU-...`) aren't ids. Where nothing tells
/// what is there, the variable does.
fn assigned_gpus(visible: &str, present: &[usize]) -> Vec<usize> {
    let ids = visible.split(',').map_while(|id| id.trim().parse().ok());
    ids.filter(|id| present.is_empty() || present.contains(id)).collect()
}

fn present_gpus() -> Vec<usize> {
    let names = fs::read_dir("/dev").into_iter().flatten().flatten().map(|entry| entry.file_name());
    let id = |name: std::ffi::OsString| name.to_str()?.strip_prefix("nvidia")?.parse().ok();
    let mut ids: Vec<usize> = names.filter_map(id).collect();
    if ids.is_empty() && Path::new("/dev/nvidiactl").exists() {
        // A container may hide the device files; the driver's own tool still knows.
        let output = Command::new("nvidia-smi")
            .args(["--query-gpu=index", "--format=csv,noheader"])
            .stdin(Stdio::null())
            .output();
        let text = output.ok().map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        ids = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
    }
    ids.sort_unstable();
    ids
}

/// Where runs of this user claim GPUs.
fn locks() -> PathBuf {
    use std::os::unix::fs::MetadataExt as _;
    // Who this process is, without asking libc.
    let user = fs::metadata("/proc/self").map(|found| found.uid()).unwrap_or_default();
    env::temp_dir().join(format!("palinode-{user}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_gpus_or_their_ids() {
        assert_eq!(Gpus::parse("2"), Ok(Gpus::Count(2)));
        assert_eq!(Gpus::parse("3, 0,3"), Ok(Gpus::Ids(vec![0, 3])));
        assert_eq!(Gpus::parse("3,"), Ok(Gpus::Ids(vec![3])));
        for wrong in ["", ",", "-1", "all", "1;2", "99999999999999999999"] {
            assert!(Gpus::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Gpus::Count(2).ids(&[1, 4, 5], false), [1, 4]);
        assert_eq!(Gpus::Count(3).ids(&[1], false), [1, 0, 2]);
        assert_eq!(Gpus::Count(3).ids(&[1, 5], true), [1, 5], "others are somebody else's");
        assert_eq!(Gpus::Count(1).ids(&[5, 7], true), [5]);
        assert_eq!(Gpus::Count(0).ids(&[1], false), [0; 0]);
        assert_eq!(Gpus::Ids(vec![7]).ids(&[], true), [7]);
        assert_eq!(assigned_gpus("5, 7", &[]), [5, 7]);
        assert_eq!(assigned_gpus("1,9,0", &[0, 1, 2]), [1, 0]);
        assert_eq!(assigned_gpus("1,GPU-8f,0", &[0, 1]), [1]);
        assert_eq!(assigned_gpus("", &[0, 1]), [0; 0]);
    }

    #[test]
    fn an_amount_of_memory() {
        assert_eq!(parse_memory("2GiB"), Ok(2048));
        assert_eq!(parse_memory("100"), Ok(100));
        assert!(parse_memory("much").is_err());
    }
}
