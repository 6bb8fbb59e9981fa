//! What a command may read, write and reach. Landlock keeps it to that; a network namespace without interfaces keeps it
//! off the network. Both are put on the thread that starts the command, which inherits them.

use std::{
    fs::File,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::OnceLock,
    thread,
};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, LandlockStatus, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// The newest version whose rights are asked for; an older kernel gives those that it knows.
const VERSION: ABI = ABI::V6;
/// The first that knows of TCP.
const TCP: ABI = ABI::V4;
/// Programs, libraries, and what they are set up with.
pub(super) const SYSTEM: [&str; 10] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/nix/store", "/gnu/store"];
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
/// What programs with a life of their own ask the system about itself.
const TOOLS: [&str; 2] = ["/proc", "/sys"];
/// Where names are looked up, beside `/etc`.
const NETWORK: [&str; 2] = ["/run/systemd/resolve", "/run/nscd"];

/// What one command may do.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules {
    pub(super) read: Vec<PathBuf>,
    pub(super) write: Vec<PathBuf>,
    pub(super) devices: Vec<PathBuf>,
    /// Files that are there may be written to.
    pub(super) notes: Vec<PathBuf>,
    pub(super) network: bool,
}

/// How much of it is enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Enforced {
    pub(super) files: bool,
    pub(super) network: bool,
}

impl Rules {
    /// For a command in the folder `scratch` that uses tools installed in `tools`, and GPUs if it was given some.
    pub(super) fn new(scratch: &Path, tools: Option<&[PathBuf]>, network: bool, has_gpus: bool) -> Self {
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        let mut rules = Self { read: paths(&SYSTEM), devices: paths(&DEVICES), network, ..Self::default() };
        rules.read.push(scratch.join("in"));
        rules.write.extend([scratch.join("work"), scratch.join("tmp")]);
        if let Some(tools) = tools {
            rules.read.extend(paths(&TOOLS));
            rules.read.extend(tools.iter().cloned());
            rules.devices.extend(gpus());
            // CUDA's driver names its threads (`/proc/PID/task/TID/comm`), and gives up with error 304 where it may not.
            // Whose they will be isn't known, so it is all of `/proc`, as far as permissions go.
            if has_gpus {
                rules.notes.push("/proc".into());
            }
            // Locks between the processes of one program are files there.
            if !scratch.starts_with("/dev/shm") {
                rules.write.push("/dev/shm".into());
            }
        }
        if network {
            rules.read.extend(paths(&NETWORK));
        }
        rules
    }

    /// Whether it may read `path`.
    pub(super) fn allow(&self, path: &Path) -> bool {
        // What a symlink leads to is what counts.
        let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let roots = self.read.iter().chain(&self.write).chain(&self.devices);
        roots.clone().any(|root| real.starts_with(std::fs::canonicalize(root).as_deref().unwrap_or(root)))
    }

    /// Keeps this thread, and all that it starts, to the rules; `offline` is a network that leads nowhere.
    pub(super) fn enforce(&self, offline: Option<&File>) -> Result<Enforced, String> {
        let mut network = self.network;
        if !self.network
            && let Some(offline) = offline
        {
            let entered = move_into_link_name_space(offline.as_fd(), Some(LinkNameSpaceType::Network));
            network = entered.is_ok();
        }
        // Without a namespace, Landlock keeps it from TCP where it can.
        let landlock = self.landlock(!network).map_err(|error| error.to_string())?;
        Ok(Enforced { files: landlock.is_some(), network: network || landlock >= Some(TCP) })
    }

    /// Which version the kernel has, if it has Landlock.
    fn landlock(&self, block_tcp: bool) -> Result<Option<ABI>, RulesetError> {
        let all = AccessFs::from_all(VERSION);
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(all)?
            .scope(Scope::from_all(VERSION))?;
        if block_tcp {
            ruleset = ruleset.handle_access(AccessNet::from_all(VERSION))?;
        }
        let status = ruleset
            .create()?
            .add_rules(path_beneath_rules(&self.read, AccessFs::from_read(VERSION)))?
            .add_rules(path_beneath_rules(self.write.iter().chain(&self.devices), all))?
            .add_rules(path_beneath_rules(&self.notes, AccessFs::WriteFile | AccessFs::Truncate))?
            .restrict_self()?;
        Ok(match status.landlock {
            LandlockStatus::Available { effective_abi, .. } if status.ruleset != RulesetStatus::NotEnforced => {
                Some(effective_abi)
            }
            _ => None,
        })
    }
}

/// The driver makes its last device file (`nvidia-uvm`) when CUDA is first used, which a command in a sandbox may not do.
pub(super) fn make_gpu_devices() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        if Path::new("/dev/nvidiactl").exists() && !Path::new("/dev/nvidia-uvm").exists() {
            let mut made = std::process::Command::new("nvidia-modprobe");
            made.args(["-u", "-c", "0"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            // Where that program is missing, whoever set the machine up has seen to it.
            let _ = made.status();
        }
    });
}

fn gpus() -> Vec<PathBuf> {
    let named = |name: &str| name.starts_with("nvidia") || name == "dri" || name == "kfd";
    let devices = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    devices.filter(|device| device.file_name().to_str().is_some_and(named)).map(|device| device.path()).collect()
}

/// A network namespace with nothing in it, made once: to make one for each command would take longer than most of them.
#[derive(Default)]
pub(super) struct Offline(OnceLock<Option<File>>);

impl Offline {
    /// `None` where this process may not make one.
    pub(super) fn get(&self) -> Option<&File> {
        let made = self.0.get_or_init(|| thread::spawn(namespace).join().ok().flatten());
        made.as_ref()
    }
}

/// On a thread of its own, which it leaves in the namespace.
fn namespace() -> Option<File> {
    #[expect(deprecated, reason = "unsafe for the sake of flags that share file descriptors; this one doesn't")]
    let apart = rustix::thread::unshare(UnshareFlags::NEWNET);
    apart.ok()?;
    File::open("/proc/thread-self/ns/net").ok()
}
