//! Divergences by instance, and what is told of each pool of them.

use std::collections::{BTreeMap, BTreeSet};

use palinode_engine::{context::Context, stage::StageError};

use super::Params;
use crate::{
    gathered::{Coords, Part, Pool, check_pool, parts, pools, runs},
    records::{self, ALL, DensityRow, DivergenceMean, DivergenceRow, Prompt, Scale},
    stats::{Bootstrap, Density, Design, Ratio, quantile},
};

const QUANTILES: [f64; 7] = [0.025, 0.05, 0.25, 0.5, 0.75, 0.95, 0.975];

/// All that was gathered.
pub(super) struct Tables {
    prompts: Vec<Prompt>,
    instances: Vec<(Coords, Option<Vec<Cell>>)>,
}

/// The positions of one prompt in one instance: the values of each measure in turn.
struct Cell {
    prompt: usize,
    values: Vec<Vec<f64>>,
}

impl Tables {
    pub(super) fn read(params: &Params, ctx: &Context<'_>) -> Result<Self, StageError> {
        let mut tables = Tables { prompts: Vec::new(), instances: Vec::new() };
        let mut places: BTreeMap<(String, String), usize> = BTreeMap::new();
        for row in ctx.table("divergences") {
            let Some(files) = &row.input else {
                tables.instances.push((row.coords, None));
                continue;
            };
            let mut of_id: BTreeMap<String, usize> = BTreeMap::new();
            for prompt in records::rows::<Prompt>(files, records::PROMPTS)? {
                let key = (prompt.id.clone(), prompt.text.clone());
                let place = *places.entry(key).or_insert(tables.prompts.len());
                of_id.insert(prompt.id.clone(), place);
                if place == tables.prompts.len() {
                    tables.prompts.push(prompt);
                }
            }
            let mut cells: BTreeMap<usize, Cell> = BTreeMap::new();
            for row in records::rows::<DivergenceRow>(files, records::DIVERGENCE)? {
                let Some(&prompt) = of_id.get(&row.prompt) else {
                    return Err(StageError::failed(format!("prompts.jsonl lacks the prompt `{}`", row.prompt)));
                };
                let empty = || Cell { prompt, values: vec![Vec::new(); params.measures.len()] };
                let cell = cells.entry(prompt).or_insert_with(empty);
                for (measure, values) in params.measures.iter().zip(&mut cell.values) {
                    values.push(measure.of(&row));
                }
            }
            tables.instances.push((row.coords, Some(cells.into_values().collect())));
        }
        let axes: BTreeSet<&str> =
            tables.instances.iter().flat_map(|(coords, _)| coords).map(|(axis, _)| axis.as_str()).collect();
        check_pool(&params.pool, &Params::default().pool, &axes)?;
        Ok(tables)
    }

    pub(super) fn there(&self) -> usize {
        self.instances.len() - self.missing()
    }

    pub(super) fn missing(&self) -> usize {
        self.instances.iter().filter(|(_, cells)| cells.is_none()).count()
    }

    pub(super) fn positions(&self) -> usize {
        let cells = self.instances.iter().filter_map(|(_, cells)| cells.as_ref()).flatten();
        cells.map(|cell| cell.values.first().map_or(0, Vec::len)).sum()
    }

    pub(super) fn told(
        &self,
        params: &Params,
        bootstrap: &Bootstrap,
        ctx: &Context<'_>,
    ) -> Result<(Vec<DivergenceMean>, Vec<DensityRow>), StageError> {
        let coords: Vec<&Coords> = self.instances.iter().map(|(coords, _)| coords).collect();
        let pools = pools(&coords, &params.pool);
        let (mut means, mut densities) = (Vec::new(), Vec::new());
        for (done, pool) in pools.iter().enumerate() {
            ctx.progress(done, pools.len(), "mean")?;
            let levels = runs(&pool.rows.iter().map(|&row| coords[row]).collect::<Vec<_>>(), &pool.axes);
            let cells: Vec<(&Cell, &[u32])> = pool
                .rows
                .iter()
                .zip(&levels)
                .filter_map(|(&row, level)| Some((self.instances[row].1.as_ref()?, level)))
                .flat_map(|(cells, level)| cells.iter().map(move |cell| (cell, &level[..])))
                .collect();
            let prompts = || cells.iter().map(|(cell, _)| &self.prompts[cell.prompt]);
            for part in parts(prompts(), &params.by) {
                let cells: Vec<(&Cell, &[u32])> =
                    cells.iter().filter(|(cell, _)| part.holds(&self.prompts[cell.prompt])).copied().collect();
                if cells.is_empty() && part != Part::default() {
                    continue;
                }
                let crossed: Vec<(&Prompt, &[u32])> =
                    cells.iter().map(|(cell, level)| (&self.prompts[cell.prompt], *level)).collect();
                let design = Design::new(&crossed, params.resample, &pool.axes);
                for (at, measure) in params.measures.iter().enumerate() {
                    let of_measure: Vec<&Vec<f64>> = cells.iter().map(|(cell, _)| &cell.values[at]).collect();
                    let mut values: Vec<f64> = of_measure.iter().copied().flatten().copied().collect();
                    values.sort_by(f64::total_cmp);
                    means.push(self.mean(measure.name(), pool, part, (&of_measure, &values), &design, bootstrap));
                    if part.identity.is_none() {
                        densities.push(density(measure.name(), pool, part, &values, params));
                    }
                }
            }
        }
        Ok((means, densities))
    }

    fn mean(
        &self,
        measure: &str,
        pool: &Pool,
        part: Part<'_>,
        (cells, sorted): (&[&Vec<f64>], &[f64]),
        design: &Design,
        bootstrap: &Bootstrap,
    ) -> DivergenceMean {
        let ratio = |values: &&Vec<f64>| Ratio { top: values.iter().sum(), bottom: values.len() as f64 };
        let ratios: Vec<Ratio> = cells.iter().map(ratio).collect();
        let total: f64 = ratios.iter().map(|ratio| ratio.top).sum();
        let ends = bootstrap.interval(design, &ratios);
        let there = pool.rows.iter().filter(|&&row| self.instances[row].1.is_some()).count();
        let prompts: BTreeSet<usize> = pool
            .rows
            .iter()
            .filter_map(|&row| self.instances[row].1.as_ref())
            .flatten()
            .map(|cell| cell.prompt)
            .filter(|&prompt| part.holds(&self.prompts[prompt]))
            .collect();
        DivergenceMean {
            measure: measure.to_owned(),
            coords: pool.coords.clone(),
            pooled: pool.axes.clone(),
            split: part.split_name(),
            exposure: part.exposure_name(),
            group: part.group_name(),
            identity: part.identity.unwrap_or(ALL).to_owned(),
            instances: there,
            missing: pool.rows.len() - there,
            prompts: prompts.len(),
            positions: sorted.len(),
            mean: (!sorted.is_empty()).then(|| total / sorted.len() as f64),
            low: ends.map(|(low, _)| low),
            high: ends.map(|(_, high)| high),
            confidence: bootstrap.confidence,
            resampling: design.names(),
            quantiles: QUANTILES.iter().filter_map(|&level| Some((level, quantile(sorted, level)?))).collect(),
        }
    }
}

fn density(measure: &str, pool: &Pool, part: Part<'_>, sorted: &[f64], params: &Params) -> DensityRow {
    let zeros = sorted.iter().filter(|&&value| value <= 0.0).count();
    let (values, zeros): (Vec<f64>, usize) = match params.scale {
        Scale::Linear => (sorted.to_vec(), 0),
        Scale::Log10 => (sorted[zeros..].iter().map(|&value| libm::log10(value)).collect(), zeros),
    };
    let density = Density::gaussian(&values, params.points);
    let (bandwidth, x, density) = match density {
        Some(Density { bandwidth, x, y }) => (Some(bandwidth), x, y),
        None => (None, Vec::new(), Vec::new()),
    };
    DensityRow {
        measure: measure.to_owned(),
        coords: pool.coords.clone(),
        pooled: pool.axes.clone(),
        split: part.split_name(),
        exposure: part.exposure_name(),
        group: part.group_name(),
        scale: params.scale,
        kernel: "gaussian".to_owned(),
        rule: "silverman".to_owned(),
        bandwidth,
        values: values.len(),
        zeros,
        x,
        density,
    }
}
