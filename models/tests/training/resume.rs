//! A run that was broken off goes on to the same bytes; evaluation, early stopping, the best weights.

use palinode_models::lora::{self, LoraConfig};
use palinode_models::train::{
    Data, Evaluate, Evaluation, Example, Keep, Length, Next, Observer, StepReport, TrainConfig, TrainError,
    TrainReport, TrainState, Trained, evaluate, train_from,
};
use palinode_models::{CausalLm, peft};

use crate::fixtures::own;

/// Saves after each step, and stops after one of them.
#[derive(Default)]
struct Keeper {
    stop_after: Option<usize>,
    saved: Vec<TrainState>,
    evaluations: Vec<Evaluation>,
}

impl Observer for Keeper {
    fn step(&mut self, step: &StepReport, _: usize) -> Next {
        if self.stop_after == Some(step.step) { Next::SaveAndStop } else { Next::Save }
    }

    fn evaluated(&mut self, evaluation: &Evaluation) {
        self.evaluations.push(*evaluation);
    }

    fn save(&mut self, state: &TrainState) -> Result<(), String> {
        // Through the file, as it would be.
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let path = folder.path().join("state");
        state.write(&path).map_err(|error| error.to_string())?;
        self.saved.push(TrainState::read(&path).map_err(|error| error.to_string())?);
        Ok(())
    }
}

struct Case {
    model: CausalLm,
    train: Vec<Example>,
    validation: Vec<Example>,
    config: TrainConfig,
}

impl Case {
    fn run(&self, state: Option<TrainState>, keeper: &mut Keeper) -> Result<(CausalLm, TrainReport), TrainError> {
        let data = Data { train: &self.train, validation: &self.validation };
        train_from(self.model.clone(), data, &self.config, state, keeper)
    }
}

fn cases() -> Vec<Case> {
    let mut examples = own().examples("gpt2");
    let validation = examples.split_off(33);
    let config = TrainConfig {
        length: Length::Steps(9),
        micro_batch: 3,
        accumulation: 2,
        rate: 3e-3,
        warmup: 2,
        weight_decay: 0.1,
        seed: 4,
        ..TrainConfig::default()
    };
    let mut adapted = own().base("gpt2");
    let lora = LoraConfig { dropout: 0.3, ..LoraConfig::paper_text(4) };
    lora::attach(&mut adapted, &lora, 2).unwrap();
    let evaluate = Evaluate { every: 2, patience: None, keep: Keep::Best };
    vec![
        Case {
            model: own().base("gpt2"),
            train: examples.clone(),
            validation: validation.clone(),
            config: config.clone(),
        },
        Case {
            model: adapted,
            train: examples,
            validation,
            config: TrainConfig { trained: Trained::Adapters, evaluate: Some(evaluate), ..config },
        },
    ]
}

/// What a run comes to, to the bit.
fn bytes(model: &CausalLm, lora: bool) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    if lora {
        let config = LoraConfig::paper_text(4);
        peft::save_adapter(model, &config, "base", folder.path()).unwrap();
        return std::fs::read(folder.path().join(peft::TENSORS)).unwrap();
    }
    model.save(folder.path()).unwrap();
    std::fs::read(folder.path().join("model.safetensors")).unwrap()
}

#[test]
fn from_any_step_a_run_comes_to_the_same_bytes() {
    for case in cases() {
        let lora = case.config.trained == Trained::Adapters;
        let mut keeper = Keeper::default();
        let (whole, report) = case.run(None, &mut keeper).unwrap();
        // After the last step there is nothing to go on with.
        assert_eq!(keeper.saved.iter().map(TrainState::steps).collect::<Vec<_>>(), (1..9).collect::<Vec<_>>());
        for state in keeper.saved {
            let done = state.steps();
            let (again, resumed) = case.run(Some(state), &mut Keeper::default()).unwrap();
            assert_eq!(resumed, report, "from step {done}");
            assert!(bytes(&again, lora) == bytes(&whole, lora), "from step {done}");
        }
        // Stopped and gone on with again and again.
        let (mut state, mut runs) = (None, 0);
        let result = loop {
            runs += 1;
            let stop_after = Some(state.as_ref().map_or(2, |state: &TrainState| state.steps() + 2));
            let mut keeper = Keeper { stop_after, ..Keeper::default() };
            match case.run(state, &mut keeper) {
                Ok(result) => break result,
                Err(TrainError::Cancelled { step }) => {
                    state = keeper.saved.pop();
                    assert_eq!(state.as_ref().map(TrainState::steps), Some(step + 1));
                }
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(runs, 3);
        assert_eq!(result.1, report);
        assert!(bytes(&result.0, lora) == bytes(&whole, lora));
    }
}

#[test]
fn a_state_of_another_run_is_refused() {
    let [full, adapted] = cases().try_into().ok().unwrap();
    let mut keeper = Keeper::default();
    adapted.run(None, &mut keeper).unwrap();
    let error = full.run(keeper.saved.pop(), &mut Keeper::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the checkpoint is of another training run: what learns there has other names or shapes"
    );
}

fn with(evaluate: Evaluate, rate: f64, steps: usize) -> Case {
    let mut case = cases().remove(0);
    case.config = TrainConfig { evaluate: Some(evaluate), rate, length: Length::Steps(steps), ..case.config };
    case
}

#[test]
fn evaluations_tell_the_loss_on_what_is_not_trained_on() {
    let case = with(Evaluate { every: 4, patience: None, keep: Keep::Last }, 1e-3, 10);
    let mut keeper = Keeper::default();
    let (tuned, report) = case.run(None, &mut keeper).unwrap();
    assert_eq!(report.evaluations.iter().map(|one| one.steps).collect::<Vec<_>>(), [4, 8, 10]);
    assert_eq!(keeper.evaluations, report.evaluations);
    let last = evaluate(&tuned, &case.validation, 3).unwrap();
    assert_eq!(report.evaluations[2].loss, last);
    assert!(!report.stopped_early && report.best.is_none());
    // They don't disturb the training.
    let mut quiet = with(Evaluate { every: 4, patience: None, keep: Keep::Last }, 1e-3, 10);
    quiet.config.evaluate = None;
    let (same, _) = quiet.run(None, &mut Keeper::default()).unwrap();
    assert!(same.tensors() == tuned.tensors());
}

/// The texts are random, so what is learned of some says nothing of the others: soon the held-out loss rises.
#[test]
fn training_stops_when_it_gets_no_better_and_the_best_weights_are_kept() {
    let case = |keep, patience| with(Evaluate { every: 1, patience, keep }, 1e-2, 60);
    let (_, report) = case(Keep::Best, Some(3)).run(None, &mut Keeper::default()).unwrap();
    let best = report.best.unwrap();
    assert!(report.stopped_early && report.steps.len() == best.steps + 3, "{best:?} {}", report.steps.len());
    let lowest = report.evaluations.iter().map(|one| one.loss).fold(f64::INFINITY, f64::min);
    assert_eq!(best.loss, lowest);
    // The result is what it was then.
    let kept = case(Keep::Best, Some(3));
    let (tuned, _) = kept.run(None, &mut Keeper::default()).unwrap();
    assert_eq!(evaluate(&tuned, &kept.validation, 3).unwrap(), best.loss);
    let (last, report) = case(Keep::Last, Some(3)).run(None, &mut Keeper::default()).unwrap();
    assert!(report.best.is_none() && report.stopped_early);
    assert_eq!(evaluate(&last, &kept.validation, 3).unwrap(), report.evaluations.last().unwrap().loss);
    // Broken off when its patience had just ended, or in the middle of it.
    let mut keeper = Keeper::default();
    let (whole, report) = kept.run(None, &mut keeper).unwrap();
    for state in keeper.saved.into_iter().rev().take(4) {
        let (again, resumed) = kept.run(Some(state), &mut Keeper::default()).unwrap();
        assert_eq!(resumed, report);
        assert!(again.tensors() == whole.tensors());
    }
}
