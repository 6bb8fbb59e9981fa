//! Where models compute: a device as people declare it, what it comes to on this machine, and its name in keys.

use std::{fmt, fs, path::Path, str::FromStr};

use burn::tensor::Device;

/// A device as declared: `cpu`, `cuda`, `cuda:1`, `tch`, `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceSpec {
    /// burn's flex backend: what every build has.
    Cpu,
    /// The CUDA device of this number among those that the process sees.
    Cuda(usize),
    /// LibTorch on the CPU, to compare with.
    Tch,
    /// The first CUDA device where the build and the machine have one, else the CPU.
    Auto,
}

/// A device that can't be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Not the name of one.
    #[error("`{0}` is no device; give `cpu`, `cuda`, `cuda:1`, `tch` or `auto`")]
    Name(String),
    /// A backend that was not built in.
    #[error("`{device}` needs a build with `--features {feature}`, and this one has none; `auto` takes what there is")]
    NotBuilt {
        /// What was asked for.
        device: String,
        /// Cargo's feature.
        feature: &'static str,
    },
    /// No driver, or none of its devices.
    #[error("`{device}`: there is no NVIDIA GPU here ({missing}); `auto` takes the CPU then")]
    NoGpu {
        /// What was asked for.
        device: String,
        /// What isn't there.
        missing: String,
    },
}

/// Where the driver tells its devices.
const GPUS: &str = "/proc/driver/nvidia/gpus";

impl DeviceSpec {
    /// What keys call the device: sums come out otherwise with wider vectors, or on another model of GPU.
    ///
    /// # Errors
    /// If the build or the machine lacks it.
    pub fn name(self) -> Result<String, DeviceError> {
        match self.resolved() {
            DeviceSpec::Cuda(_) => {
                self.built("cuda", cfg!(feature = "cuda-unfused"))?;
                let models = gpu_models(Path::new(GPUS));
                match models.is_empty() {
                    true => Err(self.no_gpu(format!("{GPUS} lists none"))),
                    false => Ok(format!("cuda {}", models.join(", "))),
                }
            }
            DeviceSpec::Tch => {
                self.built("tch", cfg!(feature = "tch"))?;
                Ok(format!("tch {}", instruction_set()))
            }
            DeviceSpec::Cpu | DeviceSpec::Auto => Ok(instruction_set()),
        }
    }

    /// The device itself.
    ///
    /// # Errors
    /// If the build or the machine lacks it, or the process may not see it.
    pub fn open(self) -> Result<Device, DeviceError> {
        match self.resolved() {
            DeviceSpec::Cuda(number) => self.cuda(number),
            DeviceSpec::Tch => self.tch(),
            DeviceSpec::Cpu | DeviceSpec::Auto => Ok(Device::flex()),
        }
    }

    /// How many GPUs a process must see for it.
    pub fn gpus(self) -> usize {
        match self.resolved() {
            DeviceSpec::Cuda(number) => number + 1,
            DeviceSpec::Cpu | DeviceSpec::Tch | DeviceSpec::Auto => 0,
        }
    }

    /// `auto` as what it stands for here.
    fn resolved(self) -> Self {
        match self {
            DeviceSpec::Auto if cfg!(feature = "cuda-unfused") && !gpu_models(Path::new(GPUS)).is_empty() => {
                DeviceSpec::Cuda(0)
            }
            DeviceSpec::Auto => DeviceSpec::Cpu,
            other => other,
        }
    }

    fn built(self, feature: &'static str, is: bool) -> Result<(), DeviceError> {
        if is { Ok(()) } else { Err(DeviceError::NotBuilt { device: self.to_string(), feature }) }
    }

    fn no_gpu(self, missing: String) -> DeviceError {
        DeviceError::NoGpu { device: self.to_string(), missing }
    }

    #[cfg(feature = "cuda-unfused")]
    fn cuda(self, number: usize) -> Result<Device, DeviceError> {
        configure();
        // Never asked of a device that isn't there: burn panics at its first use.
        let seen = Device::enumerate(burn::tensor::DeviceType::Cuda).into_iter().count();
        match number < seen {
            true => Ok(Device::cuda(number)),
            false => Err(self.no_gpu(format!("CUDA shows {seen} of them to this process"))),
        }
    }

    #[cfg(not(feature = "cuda-unfused"))]
    fn cuda(self, _: usize) -> Result<Device, DeviceError> {
        self.built("cuda", false).map(|()| Device::flex())
    }

    #[cfg(feature = "tch")]
    fn tch(self) -> Result<Device, DeviceError> {
        #[expect(deprecated, reason = "it is there to compare with, by choice")]
        Ok(Device::libtorch())
    }

    #[cfg(not(feature = "tch"))]
    fn tch(self) -> Result<Device, DeviceError> {
        self.built("tch", false).map(|()| Device::flex())
    }
}

impl FromStr for DeviceSpec {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let number = || text.strip_prefix("cuda:")?.parse().ok().filter(|number| *number < 1024);
        match text {
            "cpu" => Ok(DeviceSpec::Cpu),
            "cuda" => Ok(DeviceSpec::Cuda(0)),
            "tch" => Ok(DeviceSpec::Tch),
            "auto" => Ok(DeviceSpec::Auto),
            _ => number().map(DeviceSpec::Cuda).ok_or_else(|| DeviceError::Name(text.to_owned())),
        }
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceSpec::Cpu => f.write_str("cpu"),
            DeviceSpec::Cuda(0) => f.write_str("cuda"),
            DeviceSpec::Cuda(number) => write!(f, "cuda:{number}"),
            DeviceSpec::Tch => f.write_str("tch"),
            DeviceSpec::Auto => f.write_str("auto"),
        }
    }
}

/// How kernels are compiled and chosen, told once before the first. Compiling them takes longer than most stages run, so
/// they and what tuning found are kept from one process to the next, in the user's cache folder; and tuning is content
/// with less. A `cubecl.toml` and the `CUBECL_` variables say otherwise.
#[cfg(feature = "cuda-unfused")]
fn configure() {
    use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig as _, autotune::AutotuneLevel, cache::CacheConfig};
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let mut config = CubeClRuntimeConfig::from_current_dir();
        config.compilation.cache = true;
        if matches!(config.environment.path, CacheConfig::Target) {
            config.environment.path = CacheConfig::Global;
        }
        if matches!(config.autotune.level, AutotuneLevel::Balanced) {
            config.autotune.level = AutotuneLevel::Minimal;
        }
        // Whoever was first has chosen.
        CubeClRuntimeConfig::try_set(config.override_from_env());
    });
}

/// The models of GPU that the driver tells, each once.
fn gpu_models(folder: &Path) -> Vec<String> {
    let gpus = fs::read_dir(folder).into_iter().flatten().flatten();
    let model = |gpu: fs::DirEntry| {
        let text = fs::read_to_string(gpu.path().join("information")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Model:"));
        line.map(|model| model.trim().to_owned()).filter(|model| !model.is_empty())
    };
    let mut models: Vec<_> = gpus.filter_map(model).collect();
    models.sort();
    models.dedup();
    models
}

/// The instruction set that matrix products use here: sums come out otherwise with wider vectors.
fn instruction_set() -> String {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
            return "cpu x86-64-v4".to_owned();
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return "cpu x86-64-v3".to_owned();
        }
    }
    format!("cpu {}", std::env::consts::ARCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for text in ["cpu", "cuda", "cuda:1", "tch", "auto"] {
            assert_eq!(text.parse::<DeviceSpec>().unwrap().to_string(), text);
        }
        assert_eq!("cuda:0".parse(), Ok(DeviceSpec::Cuda(0)));
        for text in ["gpu", "cuda:", "cuda:x", "cuda:-1", "CPU", ""] {
            assert_eq!(text.parse::<DeviceSpec>(), Err(DeviceError::Name(text.to_owned())));
        }
    }

    #[test]
    fn the_cpu_is_always_there() {
        assert_eq!(DeviceSpec::Cpu.open(), Ok(Device::flex()));
        assert!(DeviceSpec::Cpu.name().unwrap().starts_with("cpu "));
        assert_eq!(DeviceSpec::Cpu.gpus(), 0);
        assert_eq!(DeviceSpec::Cuda(1).gpus(), 2);
    }

    #[cfg(not(any(feature = "cuda-unfused", feature = "tch")))]
    #[test]
    fn what_is_missing_is_told() {
        assert_eq!(DeviceSpec::Auto.open(), Ok(Device::flex()));
        insta::assert_snapshot!(DeviceSpec::Cuda(1).open().unwrap_err(), @"`cuda:1` needs a build with `--features cuda`, and this one has none; `auto` takes what there is");
        insta::assert_snapshot!(DeviceSpec::Tch.name().unwrap_err(), @"`tch` needs a build with `--features tch`, and this one has none; `auto` takes what there is");
    }

    #[test]
    fn gpus_are_told_by_their_driver() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(gpu_models(folder.path()), [""; 0]);
        for (gpu, model) in [("0000:01:00.0", "NVIDIA H100 80GB HBM3"), ("0000:02:00.0", "NVIDIA H100 80GB HBM3")] {
            fs::create_dir(folder.path().join(gpu)).unwrap();
            fs::write(folder.path().join(gpu).join("information"), format!("Model: \t\t {model}\nIRQ:   \t\t 10\n"))
                .unwrap();
        }
        assert_eq!(gpu_models(folder.path()), ["NVIDIA H100 80GB HBM3"]);
    }
}
