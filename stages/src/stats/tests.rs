use super::*;
use crate::records::Prompt;

fn bootstrap(resamples: usize) -> Bootstrap {
    Bootstrap::new(resamples, 0.95, 1)
}

fn prompt(identity: usize, template: usize) -> Prompt {
    let (identity, template) = (format!("i{identity}"), format!("t{template}"));
    Prompt {
        id: format!("{identity}.{template}"),
        text: String::new(),
        identity: Some(identity),
        group: "g".to_owned(),
        template: Some(template),
        split: None,
        exposure: None,
        facts: BTreeMap::new(),
    }
}

/// Every identity with every template in every run, and what came of it.
fn crossed(
    sizes: [usize; 3],
    mut value: impl FnMut(usize, usize, usize) -> f64,
) -> (Vec<Prompt>, Vec<usize>, Vec<Ratio>) {
    let [identities, templates, runs] = sizes;
    let (mut prompts, mut of_run, mut cells) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..runs {
        for identity in 0..identities {
            for template in 0..templates {
                prompts.push(prompt(identity, template));
                of_run.push(run);
                cells.push(Ratio { top: value(identity, template, run), bottom: 1.0 });
            }
        }
    }
    (prompts, of_run, cells)
}

fn design(prompts: &[Prompt], runs: &[usize], resample: Resample) -> Design {
    let cells: Vec<(&Prompt, [u32; 1])> = prompts.iter().zip(runs.iter().map(|&run| [run as u32])).collect();
    Design::new(&cells, resample, &["seed".to_owned()])
}

#[test]
fn quantiles_are_those_of_numpy() {
    let sorted = [1.0, 2.0, 4.0, 8.0];
    assert_eq!(quantile(&sorted, 0.0), Some(1.0));
    assert_eq!(quantile(&sorted, 0.5), Some(3.0));
    assert_eq!(quantile(&sorted, 0.75), Some(5.0));
    assert_eq!(quantile(&sorted, 1.0), Some(8.0));
    assert_eq!(quantile(&[], 0.5), None);
}

#[test]
fn factors_of_one_level_are_left_out_and_prompts_without_identity_are_their_own() {
    let names = |sizes, resample| {
        let (prompts, runs, _) = crossed(sizes, |_, _, _| 0.0);
        design(&prompts, &runs, resample).names().join(" ")
    };
    assert_eq!(names([3, 4, 2], Resample::Crossed), "identity template seed");
    assert_eq!(names([1, 4, 1], Resample::Crossed), "template");
    assert_eq!(names([1, 1, 1], Resample::Crossed), "");
    assert_eq!(names([3, 4, 1], Resample::Identity), "identity");
    assert_eq!(names([3, 4, 1], Resample::Prompt), "prompt");
    let (mut prompts, runs, cells) = crossed([3, 4, 1], |_, _, _| 1.0);
    prompts[5].template = None;
    let design = design(&prompts, &runs, Resample::Crossed);
    assert_eq!((design.names(), design.factors[0].levels), (vec!["prompt".to_owned()], 12));
    assert_eq!(bootstrap(100).interval(&design, &cells), Some((1.0, 1.0)));
}

#[test]
fn the_interval_has_the_width_that_theory_gives() {
    let mut stream = Stream::new(5, &[]);
    let (prompts, runs, cells) = crossed([400, 1, 1], |_, _, _| f64::from(stream.uniform_f64() < 0.3));
    let (low, high) = bootstrap(1000).interval(&design(&prompts, &runs, Resample::Crossed), &cells).unwrap();
    let width = 2.0 * 1.96 * (0.3f64 * 0.7 / 400.0).sqrt();
    assert!((high - low - width).abs() < 0.15 * width, "{low} {high}");
}

/// Shares that depend on identity and on template: an interval over both covers what is true of all identities and
/// templates about as often as it says, and one over prompts far less.
#[test]
fn crossed_intervals_cover_the_truth_and_those_over_prompts_do_not() {
    let covered = |resample: Resample, trials: u64| {
        let quick = bootstrap(300);
        let covers = |trial: &u64| {
            let mut stream = Stream::new(77, &[*trial]);
            let effects: Vec<f64> = (0..40).map(|_| (stream.uniform_f64() - 0.5) * 0.5).collect();
            let (prompts, runs, cells) = crossed([20, 20, 1], |identity, template, _| {
                f64::from(stream.uniform_f64() < 0.5 + effects[identity] + effects[20 + template])
            });
            let (low, high) = quick.interval(&design(&prompts, &runs, resample), &cells).unwrap();
            (low..=high).contains(&0.5)
        };
        (0..trials).filter(covers).count() as f64 / trials as f64
    };
    let (crossed, prompts) = (covered(Resample::Crossed, 300), covered(Resample::Prompt, 300));
    assert!((0.91..=0.99).contains(&crossed), "{crossed}");
    assert!(prompts < 0.8, "{prompts}");
}

/// Seeds as a third factor: runs that disagree widen the interval.
#[test]
fn seeds_that_disagree_widen_the_interval() {
    let width = |rates: [f64; 3]| {
        let mut stream = Stream::new(2, &[]);
        let (prompts, runs, cells) = crossed([20, 15, 3], |_, _, run| f64::from(stream.uniform_f64() < rates[run]));
        let design = design(&prompts, &runs, Resample::Crossed);
        assert_eq!(design.names().join(" "), "identity template seed");
        let (low, high) = bootstrap(1000).interval(&design, &cells).unwrap();
        high - low
    };
    let (agree, disagree) = (width([0.5; 3]), width([0.2, 0.5, 0.8]));
    assert!(disagree > 2.0 * agree, "{agree} {disagree}");
}

/// Of models that differ in nothing, about one in twenty pairs is found to differ at 0.05, or fewer.
#[test]
fn p_values_keep_their_level_and_find_what_differs() {
    let found = |shift: f64| {
        let quick = bootstrap(400);
        let significant = |trial: &u64| {
            let mut stream = Stream::new(3, &[*trial]);
            let effects: Vec<f64> = (0..30).map(|_| (stream.uniform_f64() - 0.5) * 0.4).collect();
            let mut draw = |shift: f64| {
                crossed([15, 15, 1], |identity, template, _| {
                    f64::from(stream.uniform_f64() < 0.5 + shift + effects[identity] + effects[15 + template])
                })
            };
            let ((prompts, runs, left), (_, _, right)) = (draw(shift), draw(0.0));
            let difference = quick.difference(&design(&prompts, &runs, Resample::Crossed), &left, &right).unwrap();
            assert!((difference.p < 0.05) == (difference.low > 0.0 || difference.high < 0.0) || difference.p > 0.03);
            difference.p < 0.05
        };
        (0..200).filter(significant).count()
    };
    let (null, shifted) = (found(0.0), found(0.3));
    assert!(null <= 18, "{null} of 200");
    assert!(shifted >= 190, "{shifted} of 200");
}

#[test]
fn shares_of_none_and_all_get_exact_ends() {
    let (low, high) = bootstrap(100).exact(0.0, 100).unwrap();
    // scipy.stats.binomtest(0, 100).proportion_ci(): 0.03621669
    assert!(low == 0.0 && (high - 0.036_216_69).abs() < 1e-7, "{high}");
    let (low, high) = bootstrap(100).exact(1.0, 100).unwrap();
    assert!(high == 1.0 && (low - 0.963_783_31).abs() < 1e-7);
    assert_eq!((bootstrap(100).exact(0.5, 100), bootstrap(100).exact(0.0, 0)), (None, None));
}

#[test]
fn threads_change_nothing_and_kept_counts_are_those_drawn_anew() {
    let mut stream = Stream::new(9, &[]);
    let (prompts, runs, cells) = crossed([8, 7, 3], |_, _, _| f64::from(stream.uniform_f64() < 0.5));
    let design = design(&prompts, &runs, Resample::Crossed);
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| bootstrap(200).interval(&design, &cells))
    };
    assert_eq!(with(1), with(3));
    let bootstrap = bootstrap(100);
    let kept = bootstrap.kept(2, 6).unwrap();
    let mut counts = vec![0; 6];
    bootstrap.draw(2, 41, &mut counts);
    assert_eq!(kept[41 * 6..42 * 6], counts);
    assert_eq!(counts.iter().sum::<u16>(), 6);
    assert_eq!(bootstrap.kept(0, KEPT + 1), None);
    assert_eq!(bootstrap.interval(&Design::new::<[u32; 1]>(&[], Resample::Crossed, &[]), &[]), None);
    let empty = vec![Ratio::default(); cells.len()];
    assert_eq!(bootstrap.interval(&design, &empty), None);
}

/// By numpy, of 200,000 multinomial resamples of identities, templates and seeds:
/// `einsum('bs,bi,bt,sit->b', ws, wi, wt, y) / y.size`, its quantiles, and those of the difference of two.
#[test]
fn the_ends_are_those_of_another_implementation() {
    let shares = |shift: usize| {
        crossed([12, 10, 3], |i, t, s| f64::from((i * 7 + t * 3 + s * 5 + i * t) % 11 + shift < 3 + i % 3))
    };
    let ((prompts, runs, left), (_, _, right)) = (shares(0), shares(1));
    let design = design(&prompts, &runs, Resample::Crossed);
    let bootstrap = bootstrap(200_000);
    let near = |found: f64, expected: f64| assert!((found - expected).abs() < 0.003, "{found} {expected}");
    let (low, high) = bootstrap.interval(&design, &left).unwrap();
    near(low, 0.26666667);
    near(high, 0.54722222);
    let difference = bootstrap.difference(&design, &left, &right).unwrap();
    near(difference.low, 0.03333333);
    near(difference.high, 0.13888889);
    assert!((0.0008..0.0014).contains(&difference.p), "{}, not 0.0011", difference.p);
}
