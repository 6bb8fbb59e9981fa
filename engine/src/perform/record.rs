//! The record of a result: made, compared with an earlier one, published.

use std::{fs, io, path::PathBuf, sync::Arc};

use palinode_cache::{Execution, Published, Record, Scratch, StoredResult};

use super::{NoResult, Performed, Ran, Task, Took, failed_dir};
use crate::{
    files::FileSet,
    job::{Job, JobReport},
    plan::lost,
    stage::Determinism,
    stage_log::StageLog,
};

impl Task {
    pub(super) fn record(
        &self,
        report: JobReport,
        scratch: &Scratch,
        job: &Job,
        log: &StageLog,
        took: Took,
    ) -> Result<Performed, NoResult> {
        self.inputs_unchanged(job)?;
        // Bytes that are in the cache already count as stored: they must stay until the record is told of.
        let hold = self.cache.hold()?;
        let outputs = self.outputs(&report, scratch, job)?;
        let record = Record {
            format: Record::FORMAT,
            key: self.identity.key,
            parts: self.identity.parts.clone(),
            sources: self.identity.sources.clone(),
            outputs,
            summary: report.summary,
            log: self.cache.put_bytes(log.text().as_bytes())?,
            execution: self.execution(&took, report.peak_memory_mib),
        };
        let record = self.publish(record, log)?;
        self.drop_checkpoints()?;
        // What an earlier failure left would only mislead now.
        if let Err(error) = fs::remove_dir_all(failed_dir(self.cache.root(), &self.address))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "can't remove what an earlier failure left");
        }
        let result = Arc::new(StoredResult::from(&record));
        Ok(Performed { result, ran: Some(Ran { seconds: took.seconds, summary: record.summary }), hold })
    }

    /// What took long enough to keep checkpoints isn't left to a batch: they go once the result is on disk.
    fn drop_checkpoints(&self) -> Result<(), NoResult> {
        if self.cache.checkpoints(&self.identity.key).exists() {
            self.cache.flush()?;
            if let Err(error) = self.cache.remove_checkpoints(&self.identity.key) {
                tracing::warn!(%error, "can't remove the checkpoints of a stage that is done");
            }
        }
        Ok(())
    }

    fn execution(&self, took: &Took, peak_memory_mib: Option<u64>) -> Execution {
        let uname = rustix::system::uname();
        let determinism = match self.kind.determinism_of(&self.params) {
            Determinism::Bitwise => "bitwise",
            Determinism::PerDevice => "per_device",
            Determinism::Observed => "observed",
            Determinism::Unknown => "unknown",
        };
        let device = self.identity.parts.numerics.get("device").and_then(|device| device.as_str()).unwrap_or("cpu");
        let at_port = |(port, (set, _)): (&String, &(FileSet, _))| (format!("inputs.{port}"), set.place());
        let place = |(param, path): (&String, &PathBuf)| (param.clone(), path.display().to_string());
        Execution {
            host: uname.nodename().to_string_lossy().into_owned(),
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            palinode: env!("CARGO_PKG_VERSION").to_owned(),
            git: self.git.state(),
            determinism: determinism.to_owned(),
            device: device.to_owned(),
            started: took.started,
            seconds: took.seconds,
            peak_memory_mib,
            places: self.paths.iter().map(place).chain(self.files.iter().map(at_port)).collect(),
            address: self.address.clone(),
        }
    }

    /// Publishes `record`. An earlier record with the same bytes stays; one with other bytes gives way, which is told.
    fn publish(&self, record: Record, log: &StageLog) -> Result<Record, NoResult> {
        // Another process may publish between our forgetting the old record and publishing the new one.
        for _ in 0..3 {
            let Published::Existed(old) = self.cache.publish_held(&record, Some(self.lock.clone()))? else {
                return Ok(record);
            };
            let whole = lost(&StoredResult::from(&*old), &self.cache)?.is_empty();
            if old.outputs == record.outputs {
                if whole {
                    return Ok(*old);
                }
            } else {
                let kind = self.kind.name();
                let ports: Vec<_> =
                    record.outputs.iter().filter(|(port, tree)| old.outputs.get(*port) != Some(tree)).collect();
                let ports = ports.iter().map(|(port, _)| format!("`{port}`")).collect::<Vec<_>>().join(", ");
                let observed = self.kind.determinism_of(&self.params) == Determinism::Observed;
                if observed && whole {
                    log.tell(format!(
                        "{ports} came out differently; `{kind}` promises no more, and what came first stands"
                    ));
                    return Ok(*old);
                }
                let promise = match self.kind.determinism_of(&self.params) {
                    Determinism::Observed | Determinism::Unknown => "",
                    _ => ": NOT REPRODUCIBLE, though the kind promises the same bytes",
                };
                log.tell(format!("{ports} of `{kind}` came out differently than before with the same inputs{promise}"));
            }
            self.cache.forget(&record.key)?;
        }
        Err(NoResult::failed("its earlier record can't be replaced"))
    }
}
