//! The ready-queue: which task may start next. Pure: it knows neither stages nor threads, only edges, resources and
//! how long each task is expected to take.
//!
//! A task goes waiting -> ready -> queued -> running -> ended. The caller looks at each task as it becomes ready: one
//! that needs no work (a cache hit) is ended straight away, another is queued and started once its resources are free.

use std::{cmp::Reverse, collections::BTreeSet};

use crate::graph::Resources;

/// A task's place in the list that the queue was made from.
pub type TaskId = usize;

/// What the queue knows of a task.
#[derive(Debug, Clone)]
pub struct Task {
    /// What must end before it.
    pub needs: Vec<Need>,
    /// What it occupies while it runs.
    pub resources: Resources,
    /// How long it is expected to take.
    pub seconds: f64,
}

/// An edge to a task that must end first.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    /// The task that must end first.
    pub on: TaskId,
    /// Whether it must also succeed.
    pub success: bool,
}

/// What may be in use at once.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Tasks running.
    pub jobs: usize,
    /// CPUs.
    pub cpus: usize,
    /// GPUs.
    pub gpus: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Ready,
    Queued,
    Running,
    Succeeded,
    Failed,
    Blocked,
}

/// What follows from the end of a task.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// Tasks that are ready now.
    pub ready: Vec<TaskId>,
    /// Tasks that never will be, each with the failed task it is blocked by.
    pub blocked: Vec<(TaskId, TaskId)>,
}

/// The queue.
#[derive(Debug)]
pub struct ReadyQueue {
    tasks: Vec<Task>,
    followers: Vec<Vec<Need>>,
    states: Vec<State>,
    unmet: Vec<usize>,
    /// Bits of the time from the start of a task to the end of the longest chain behind it; they order as times do.
    priority: Vec<u64>,
    queued: BTreeSet<(Reverse<u64>, TaskId)>,
    limits: Limits,
    used: Limits,
}

impl ReadyQueue {
    /// A queue over `tasks`, in which each task comes after all that it needs.
    pub fn new(mut tasks: Vec<Task>, limits: Limits) -> Self {
        let mut followers = vec![Vec::new(); tasks.len()];
        for (id, task) in tasks.iter_mut().enumerate() {
            // One that asks for more than there is runs alone rather than never.
            task.resources.cpus = task.resources.cpus.min(limits.cpus);
            task.resources.gpus = task.resources.gpus.min(limits.gpus);
            task.resources.memory_mib = task.resources.memory_mib.min(limits.memory_mib);
            for need in &task.needs {
                debug_assert!(need.on < id, "tasks come in topological order");
                followers[need.on].push(Need { on: id, success: need.success });
            }
        }
        let mut chain = vec![0.0_f64; tasks.len()];
        for id in (0..tasks.len()).rev() {
            let behind = followers[id].iter().map(|need| chain[need.on]).fold(0.0, f64::max);
            chain[id] = tasks[id].seconds.max(0.0) + behind;
        }
        Self {
            states: vec![State::Waiting; tasks.len()],
            unmet: tasks.iter().map(|task| task.needs.len()).collect(),
            priority: chain.into_iter().map(f64::to_bits).collect(),
            queued: BTreeSet::new(),
            used: Limits { jobs: 0, cpus: 0, gpus: 0, memory_mib: 0 },
            limits: Limits { jobs: limits.jobs.max(1), ..limits },
            followers,
            tasks,
        }
    }

    /// The tasks that need nothing; call it once, first.
    pub fn initial(&mut self) -> Vec<TaskId> {
        let ready: Vec<_> = (0..self.tasks.len()).filter(|&id| self.unmet[id] == 0).collect();
        ready.iter().for_each(|&id| self.states[id] = State::Ready);
        ready
    }

    /// Says that the ready task `id` is to run as soon as it can.
    pub fn enqueue(&mut self, id: TaskId) {
        debug_assert_eq!(self.states[id], State::Ready);
        self.states[id] = State::Queued;
        self.queued.insert((Reverse(self.priority[id]), id));
    }

    /// The next task to start: of those whose resources are free, the one with the longest chain behind it.
    pub fn start(&mut self) -> Option<TaskId> {
        if self.used.jobs >= self.limits.jobs {
            return None;
        }
        let entry = *self.queued.iter().find(|(_, id)| self.fits(&self.tasks[*id].resources))?;
        self.queued.remove(&entry);
        let (_, id) = entry;
        self.states[id] = State::Running;
        let resources = &self.tasks[id].resources;
        self.used.jobs += 1;
        self.used.cpus += resources.cpus;
        self.used.gpus += resources.gpus;
        self.used.memory_mib += resources.memory_mib;
        Some(id)
    }

    /// Says that the running task `id` can't go on just now: what it occupied is free again, and it may be queued again.
    pub fn park(&mut self, id: TaskId) {
        debug_assert_eq!(self.states[id], State::Running);
        self.release(id);
        self.states[id] = State::Ready;
    }

    /// Says that `id` ended, with what it needs free again. One that is ready or queued may end without having run.
    pub fn end(&mut self, id: TaskId, success: bool) -> Next {
        match self.states[id] {
            State::Running => self.release(id),
            State::Queued => {
                self.queued.remove(&(Reverse(self.priority[id]), id));
            }
            _ => {}
        }
        self.states[id] = if success { State::Succeeded } else { State::Failed };
        let mut next = Next::default();
        let mut ended = vec![(id, success)];
        while let Some((task, success)) = ended.pop() {
            for need in self.followers[task].clone() {
                self.unmet[need.on] -= 1;
                if self.states[need.on] != State::Waiting {
                    continue;
                }
                if need.success && !success {
                    self.states[need.on] = State::Blocked;
                    next.blocked.push((need.on, id));
                    ended.push((need.on, false));
                } else if self.unmet[need.on] == 0 {
                    self.states[need.on] = State::Ready;
                    next.ready.push(need.on);
                }
            }
        }
        next.ready.sort_unstable();
        next.blocked.sort_unstable();
        next
    }

    /// The time from the start of `id` to the end of the longest chain behind it.
    pub fn chain(&self, id: TaskId) -> f64 {
        f64::from_bits(self.priority[id])
    }

    /// Whether a task waits to be started.
    pub fn is_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    /// Tasks that run now.
    pub fn running(&self) -> usize {
        self.used.jobs
    }

    fn release(&mut self, id: TaskId) {
        let resources = &self.tasks[id].resources;
        self.used.jobs -= 1;
        self.used.cpus -= resources.cpus;
        self.used.gpus -= resources.gpus;
        self.used.memory_mib -= resources.memory_mib;
    }

    fn fits(&self, resources: &Resources) -> bool {
        self.used.cpus + resources.cpus <= self.limits.cpus
            && self.used.gpus + resources.gpus <= self.limits.gpus
            && self.used.memory_mib + resources.memory_mib <= self.limits.memory_mib
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn task(needs: &[(TaskId, bool)], seconds: f64) -> Task {
        let needs = needs.iter().map(|&(on, success)| Need { on, success }).collect();
        Task { needs, resources: Resources::default(), seconds }
    }

    const LIMITS: Limits = Limits { jobs: 1, cpus: 4, gpus: 0, memory_mib: 0 };

    #[test]
    fn the_longest_chain_goes_first() {
        // 0 is short but has a long task behind it; 1 is longer than 0 alone.
        let mut queue = ReadyQueue::new(vec![task(&[], 1.0), task(&[], 3.0), task(&[(0, true)], 9.0)], LIMITS);
        for id in queue.initial() {
            queue.enqueue(id);
        }
        assert_eq!(queue.start(), Some(0));
        assert_eq!(queue.start(), None, "one job at a time");
    }

    #[test]
    fn a_gather_that_drops_goes_on_after_a_failure() {
        let tasks = vec![task(&[], 1.0), task(&[], 1.0), task(&[(0, false), (1, false)], 1.0), task(&[(0, true)], 1.0)];
        let mut queue = ReadyQueue::new(tasks, LIMITS);
        queue.initial();
        assert_eq!(queue.end(0, false), Next { ready: vec![], blocked: vec![(3, 0)] });
        assert_eq!(queue.end(1, true), Next { ready: vec![2], blocked: vec![] });
    }

    fn tasks() -> impl Strategy<Value = Vec<(Task, bool, bool)>> {
        let one = (
            prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..4),
            (0usize..6, 0usize..3, 0u64..200),
            0.0..10.0,
            prop::bool::weighted(0.2),
            prop::bool::weighted(0.3),
        );
        prop::collection::vec(one, 1..30).prop_map(|list| {
            let each =
                list.into_iter().enumerate().map(|(id, (edges, (cpus, gpus, memory_mib), seconds, fails, hit))| {
                    let mut needs: Vec<Need> = Vec::new();
                    for (at, success) in edges.into_iter().filter(|_| id > 0) {
                        let on = at.index(id.max(1));
                        if needs.iter().all(|need| need.on != on) {
                            needs.push(Need { on, success });
                        }
                    }
                    (Task { needs, resources: Resources { cpus, gpus, memory_mib }, seconds }, fails, hit)
                });
            each.collect()
        })
    }

    proptest! {
        #![proptest_config(crate::fakes::cases(200))]

        /// Whatever the graph: order respects edges, resources are never exceeded, exactly the tasks behind a
        /// failure are blocked, and all others end.
        #[test]
        fn random_graphs(list in tasks(), jobs in 1usize..4, lifo in any::<bool>()) {
            let limits = Limits { jobs, cpus: 4, gpus: 1, memory_mib: 128 };
            let tasks: Vec<_> = list.iter().map(|(task, ..)| task.clone()).collect();
            let mut queue = ReadyQueue::new(tasks.clone(), limits.clone());
            let (mut ended, mut blocked) = (vec![None; tasks.len()], vec![false; tasks.len()]);
            let mut fresh = queue.initial();
            let mut running: Vec<TaskId> = Vec::new();
            loop {
                while let Some(id) = fresh.pop() {
                    for need in &tasks[id].needs {
                        let success = ended[need.on];
                        let over = success.is_some() || blocked[need.on];
                        prop_assert!(over && (success == Some(true) || !need.success));
                    }
                    let (_, fails, hit) = list[id];
                    if hit {
                        ended[id] = Some(!fails);
                        let next = queue.end(id, !fails);
                        fresh.extend(next.ready);
                        next.blocked.iter().for_each(|&(id, _)| blocked[id] = true);
                    } else {
                        queue.enqueue(id);
                    }
                }
                while let Some(id) = queue.start() {
                    running.push(id);
                    let sum = |f: &dyn Fn(&Resources) -> u64| running.iter().map(|&id| f(&queue.tasks[id].resources)).sum::<u64>();
                    prop_assert!(running.len() <= limits.jobs);
                    prop_assert!(sum(&|r| r.cpus as u64) <= 4 && sum(&|r| r.gpus as u64) <= 1 && sum(&|r| r.memory_mib) <= 128);
                }
                if running.is_empty() {
                    break;
                }
                let id = if lifo { running.pop().unwrap() } else { running.remove(0) };
                ended[id] = Some(!list[id].1);
                let next = queue.end(id, !list[id].1);
                fresh.extend(next.ready);
                next.blocked.iter().for_each(|&(id, _)| blocked[id] = true);
            }
            for (id, task) in tasks.iter().enumerate() {
                let behind = task.needs.iter().any(|need| need.success && (blocked[need.on] || ended[need.on] == Some(false)));
                prop_assert_eq!(blocked[id], behind);
                prop_assert_eq!(ended[id].is_some(), !behind);
            }
        }
    }
}
