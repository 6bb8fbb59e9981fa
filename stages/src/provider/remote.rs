//! Requests to a remote service: several at a time, no faster than it allows, again where they fail, and never one whose
//! answer is stored. Each answer is stored as soon as it is there, so that a rerun asks only for what is missing.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, RandomState},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use palinode_engine::{
    context::{Answers, Context},
    stage::StageError,
};
use ureq::Agent;

/// How to send.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) concurrency: usize,
    /// Tries after the first one.
    pub(crate) retries: usize,
    /// Wait before the second try; it doubles with each one after.
    pub(crate) backoff: Duration,
    /// For one try.
    pub(crate) timeout: Duration,
    /// Least time between the beginnings of two requests.
    pub(crate) interval: Duration,
}

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) url: String,
    /// What is told of the address: without a key.
    pub(crate) place: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
    /// What the answer is stored under.
    pub(crate) request: String,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// The answer, word for word.
    Answer(String),
    /// The service won't answer this one, whoever asks: its words.
    Refused(String),
}

/// Longest wait between two tries.
const LONGEST: Duration = Duration::from_secs(60);
/// A service that asks for a longer pause won't be waited for.
const PATIENCE: Duration = Duration::from_secs(3600);
/// So many refusals before the first answer are no accident.
const HOPELESS: usize = 10;
/// How often the threads look whether they are to stop.
const TICK: Duration = Duration::from_millis(20);

/// How one try went wrong.
enum Failed {
    /// Another may go better, after this long if the service said so.
    Again {
        why: String,
        after: Option<Duration>,
    },
    Refused(String),
    /// No request will go well.
    Fatal(String),
}

/// Sends `calls` to `service` and gives what came of each. `check` says what is wrong with an answer that is not one.
/// `hint` says what may help where the service knows no such address, or refuses everybody.
pub(crate) fn ask_all(
    ctx: &Context<'_>,
    service: &str,
    calls: &[Call],
    limits: &Limits,
    hint: &str,
    check: &(dyn Fn(&str) -> Result<(), String> + Sync),
) -> Result<Vec<Outcome>, StageError> {
    let answers = ctx.answers(service)?;
    let mut first: HashMap<&str, usize> = HashMap::new();
    let mut unique: Vec<&Call> = Vec::new();
    let mut number = Vec::with_capacity(calls.len());
    for call in calls {
        number.push(*first.entry(&call.request).or_insert_with(|| {
            unique.push(call);
            unique.len() - 1
        }));
    }
    let stored = stored(ctx, service, answers.as_ref(), &unique)?;
    let outcomes = {
        let asker = Asker::new(ctx, answers.as_ref(), &unique, limits, hint, check, stored);
        asker.run()?
    };
    number.into_iter().map(|number| outcomes[number].clone().ok_or(StageError::Cancelled)).collect()
}

/// The answers that are stored already; says what is worth knowing of them.
fn stored(
    ctx: &Context<'_>,
    service: &str,
    answers: Option<&Answers>,
    calls: &[&Call],
) -> Result<Vec<Option<Outcome>>, StageError> {
    let Some(answers) = answers else { return Ok(vec![None; calls.len()]) };
    if answers.damaged() > 0 {
        let (count, path) = (answers.damaged(), answers.path().display());
        ctx.warn(format!("{count} lines of {path} are torn or damaged: what they answered is asked for again"));
    }
    let mut elsewhere: BTreeMap<String, usize> = BTreeMap::new();
    let mut stored = Vec::with_capacity(calls.len());
    for call in calls {
        let answer = answers.get(&call.request)?;
        if let Some(answer) = answer.as_ref().filter(|answer| answer.from != call.place) {
            *elsewhere.entry(answer.from.clone()).or_default() += 1;
        }
        stored.push(answer.map(|answer| Outcome::Answer(answer.text)));
    }
    let known = stored.iter().flatten().count();
    ctx.note(format!("{known} of {} requests are answered already, the rest is asked for", calls.len()));
    for (from, count) in elsewhere {
        ctx.warn(format!(
            "{count} stored answers of `{service}` came from {from}: they are taken, since a model is known by its name"
        ));
    }
    Ok(stored)
}

/// The state of one asking; its threads share it.
struct Asker<'a> {
    ctx: &'a Context<'a>,
    answers: Option<&'a Answers>,
    calls: &'a [&'a Call],
    limits: &'a Limits,
    hint: &'a str,
    check: &'a (dyn Fn(&str) -> Result<(), String> + Sync),
    agents: [Agent; 2],
    /// Calls to send, in order.
    open: Vec<usize>,
    next: AtomicUsize,
    done: AtomicUsize,
    refused: AtomicUsize,
    answered: AtomicUsize,
    stop: AtomicBool,
    /// When the next request may begin.
    free: Mutex<Instant>,
    outcomes: Mutex<Vec<Option<Outcome>>>,
    failure: Mutex<Option<StageError>>,
}

fn held<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Asker<'a> {
    fn new(
        ctx: &'a Context<'a>,
        answers: Option<&'a Answers>,
        calls: &'a [&'a Call],
        limits: &'a Limits,
        hint: &'a str,
        check: &'a (dyn Fn(&str) -> Result<(), String> + Sync),
        stored: Vec<Option<Outcome>>,
    ) -> Self {
        let config = || Agent::config_builder().timeout_global(Some(limits.timeout)).http_status_as_error(false);
        let agents = [config().build().into(), config().proxy(None).build().into()];
        let open: Vec<usize> = (0..calls.len()).filter(|&at| stored[at].is_none()).collect();
        let done = calls.len() - open.len();
        Self {
            ctx,
            answers,
            calls,
            limits,
            hint,
            check,
            agents,
            open,
            next: AtomicUsize::new(0),
            done: AtomicUsize::new(done),
            refused: AtomicUsize::new(0),
            answered: AtomicUsize::new(done),
            stop: AtomicBool::new(false),
            free: Mutex::new(Instant::now()),
            outcomes: Mutex::new(stored),
            failure: Mutex::new(None),
        }
    }

    fn run(self) -> Result<Vec<Option<Outcome>>, StageError> {
        let total = self.calls.len();
        thread::scope(|scope| {
            let count = self.limits.concurrency.min(self.open.len());
            let threads: Vec<_> = (0..count).map(|_| scope.spawn(|| self.work())).collect();
            while !threads.iter().all(thread::ScopedJoinHandle::is_finished) {
                let told = self.ctx.progress(self.done.load(Ordering::Relaxed), total, "answer");
                // What is under way comes to its end, and is stored.
                if told.is_err() || self.ctx.is_ending() {
                    self.stop.store(true, Ordering::Relaxed);
                }
                thread::sleep(TICK);
            }
        });
        if let Some(failure) = held(&self.failure).take() {
            return Err(failure);
        }
        self.ctx.progress(self.done.load(Ordering::Relaxed), total, "answer")?;
        Ok(self.outcomes.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn work(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let Some(&at) = self.open.get(self.next.fetch_add(1, Ordering::Relaxed)) else { return };
            match self.call(self.calls[at]) {
                Ok(Some(outcome)) => {
                    if let Outcome::Refused(why) = &outcome {
                        let refused = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
                        if refused >= HOPELESS && self.answered.load(Ordering::Relaxed) == 0 {
                            self.fail(StageError::failed(format!("the first {refused} requests were refused: {why}")));
                        }
                    } else {
                        self.answered.fetch_add(1, Ordering::Relaxed);
                    }
                    held(&self.outcomes)[at] = Some(outcome);
                    self.done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(None) => return,
                Err(error) => return self.fail(error),
            }
        }
    }

    fn fail(&self, error: StageError) {
        held(&self.failure).get_or_insert(error);
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Until it is answered, refused, or tried often enough; `None` if it is to stop.
    fn call(&self, call: &Call) -> Result<Option<Outcome>, StageError> {
        let mut tries = 0;
        loop {
            if !self.wait_for_turn() {
                return Ok(None);
            }
            match self.send(call) {
                Ok(text) => {
                    let text = match self.answers {
                        Some(answers) => answers.put(&call.request, &call.place, text)?.text,
                        None => text,
                    };
                    return Ok(Some(Outcome::Answer(text)));
                }
                Err(Failed::Refused(why)) => return Ok(Some(Outcome::Refused(why))),
                Err(Failed::Fatal(why)) => return Err(self.told(call, &why)),
                Err(Failed::Again { why, after }) if tries < self.limits.retries => {
                    if after.is_some_and(|after| after > PATIENCE) {
                        return Err(self.told(call, &why));
                    }
                    let wait = after.unwrap_or_else(|| self.backoff(tries));
                    if after.is_some() {
                        // It is meant for all.
                        let mut free = held(&self.free);
                        *free = (*free).max(Instant::now() + wait);
                    }
                    self.ctx.note(format!("{}: {why}; again in {:.1} s", call.place, wait.as_secs_f64()));
                    if !self.sleep_until(Instant::now() + wait) {
                        return Ok(None);
                    }
                }
                Err(Failed::Again { why, .. }) => {
                    let tries = tries + 1;
                    let times = if tries == 1 { "1 try".to_owned() } else { format!("{tries} tries") };
                    return Err(self.told(call, &format!("{why}, after {times}")));
                }
            }
            tries += 1;
        }
    }

    fn told(&self, call: &Call, why: &str) -> StageError {
        let (answered, all) = (self.answered.load(Ordering::Relaxed), self.calls.len());
        let kept = match self.answers {
            Some(_) => format!("; {answered} of {all} answers are stored: when it runs again it asks for the rest"),
            None => String::new(),
        };
        StageError::failed(format!("{}: {why}{kept}", call.place))
    }

    /// Half of it is certain, half is drawn: those who failed together shouldn't come back together.
    fn backoff(&self, tries: usize) -> Duration {
        let full = self.limits.backoff.saturating_mul(1 << tries.min(16)).min(LONGEST);
        let draw = RandomState::new().hash_one(tries) as f64 / u64::MAX as f64;
        full.mul_f64(0.5 + 0.5 * draw)
    }

    fn wait_for_turn(&self) -> bool {
        let turn = {
            let mut free = held(&self.free);
            let turn = (*free).max(Instant::now());
            *free = turn + self.limits.interval;
            turn
        };
        self.sleep_until(turn)
    }

    /// Whether it is to go on.
    fn sleep_until(&self, until: Instant) -> bool {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return false;
            }
            match until.checked_duration_since(Instant::now()) {
                None | Some(Duration::ZERO) => return true,
                Some(left) => thread::sleep(left.min(TICK)),
            }
        }
    }

    fn send(&self, call: &Call) -> Result<String, Failed> {
        let again = |why: String| Failed::Again { why, after: None };
        let agent = &self.agents[usize::from(is_local(&call.url))];
        let mut request = agent.post(&call.url).content_type("application/json");
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        let mut response = match request.send(&call.body) {
            Ok(response) => response,
            Err(error @ (ureq::Error::BadUri(_) | ureq::Error::Http(_))) => {
                return Err(Failed::Fatal(format!("it is no address: {}", in_words(&error))));
            }
            Err(error) => return Err(again(in_words(&error))),
        };
        let status = response.status();
        let after = response.headers().get("retry-after").and_then(|value| retry_after(value.to_str().ok()?));
        let body = response.body_mut().read_to_string();
        let said = || body.as_deref().map(message).unwrap_or_default();
        match status.as_u16() {
            200..300 => {
                let body = body.map_err(|error| again(format!("its answer broke off: {}", in_words(&error))))?;
                (self.check)(&body).map_err(again)?;
                Ok(body)
            }
            400 | 413 | 422 => Err(Failed::Refused(format!("{status}: {}", said()))),
            408 | 409 | 425 | 429 | 500.. => Err(Failed::Again { why: format!("{status}{}", colon(&said())), after }),
            _ => Err(Failed::Fatal(format!("{status}{}: {}", colon(&said()), self.hint))),
        }
    }
}

fn colon(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

fn in_words(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "nobody answers there (connection refused)".to_owned(),
            _ => error.to_string(),
        },
        ureq::Error::Timeout(_) => "no whole answer within the `timeout`".to_owned(),
        error => error.to_string(),
    }
}

/// Whether `url` is on this machine, where no proxy leads.
fn is_local(url: &str) -> bool {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = host.split(['/', '?']).next().unwrap_or_default();
    host.starts_with("127.") || host.starts_with("[::1]") || host.split(':').next() == Some("localhost")
}

/// What a body says is wrong, in one line.
fn message(body: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let places = ["/error/message", "/message", "/detail", "/error"];
    let found = places.iter().find_map(|place| value.pointer(place)?.as_str());
    let line = found.unwrap_or(body).split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// A number of seconds, or a date.
fn retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
    Some(Duration::try_from(date.duration_since(jiff::Timestamp::now())).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_given_in_seconds_or_as_a_date() {
        assert_eq!(retry_after(" 7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("0.5"), Some(Duration::from_millis(500)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let far = retry_after("Mon, 21 Oct 2250 07:28:00 GMT").unwrap();
        assert!(far > Duration::from_secs(86_400 * 365), "{far:?}");
        assert_eq!((retry_after("soon"), retry_after("-1"), retry_after("NaN")), (None, None, None));
    }

    #[test]
    fn what_a_service_says_is_found_in_its_body() {
        assert_eq!(message(r#"{"error": {"message": "too\nlong", "code": 400}}"#), "too long");
        assert_eq!(message(r#"{"error": "no"}"#), "no");
        assert_eq!(message("<html>\nBad\u{7}"), "<html> Bad");
    }

    #[test]
    fn this_machine_is_known() {
        for url in ["http://localhost:8000/v1", "http://127.0.0.1/", "http://[::1]:1/x"] {
            assert!(is_local(url), "{url}");
        }
        assert!(!is_local("https://localhost.example.com/v1"));
    }
}
