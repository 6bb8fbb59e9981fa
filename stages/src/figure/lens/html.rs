//! The grids as one page that needs nothing beside it: a table for each grid, and on pointing at a cell its most
//! probable tokens.

use std::fmt::Write as _;

use palinode_engine::stage::StageError;
use serde_json::json;

use super::{
    Params,
    grids::{Figure, Grid},
};
use crate::figure::{color::Rgb, font::visible};

const STYLE: &str = "body{font:13px/1.4 'DejaVu Sans',sans-serif;color:#222;background:#fff;margin:20px}\
h1{font-size:18px}h2{font-size:14px;margin:18px 0 6px}\
.grids{display:flex;flex-wrap:wrap;gap:22px}figure{margin:0}figcaption{font-weight:bold;margin-bottom:4px}\
table{border-collapse:collapse;font-size:11px}td,th{border:1px solid #fff;padding:3px 6px;text-align:center;\
max-width:9em;overflow:hidden;text-overflow:ellipsis;white-space:pre}\
th{font-weight:normal;color:#666}th.token{color:#222;font-weight:bold}td.made,th.made{border-left-color:#222}\
td:focus,td:hover{outline:2px solid #222}\
#tip{position:fixed;display:none;background:#fff;border:1px solid #666;padding:8px;box-shadow:0 2px 8px #0003;\
pointer-events:none;max-width:24em;z-index:1}#tip table{font-size:12px}#tip td{border:0;text-align:left;max-width:none}\
.bar{height:12px;width:280px;border:1px solid #ccc}.note{color:#666;font-size:12px}";

/// Only texts are set, never markup: what a model says stays a text.
const SCRIPT: &str = "'use strict';\
const data=JSON.parse(document.getElementById('cells').textContent),tip=document.getElementById('tip');\
const add=(to,tag,text)=>{const e=document.createElement(tag);e.textContent=text;to.append(e);return e};\
const show=(cell)=>{const c=data[cell.dataset.cell];tip.replaceChildren();add(tip,'b',c.at);\
const list=add(tip,'table','');for(const [token,p] of c.top){const row=add(list,'tr','');\
add(row,'td',token);add(row,'td',p.toFixed(4))}for(const line of c.facts)add(tip,'div',line);\
tip.style.display='block';const r=cell.getBoundingClientRect(),w=tip.offsetWidth,h=tip.offsetHeight;\
tip.style.left=Math.max(4,Math.min(r.right+6,innerWidth-w-4))+'px';\
tip.style.top=Math.max(4,Math.min(r.top,innerHeight-h-4))+'px'};\
const hide=()=>{tip.style.display='none'};\
for(const cell of document.querySelectorAll('td[data-cell]')){cell.addEventListener('mouseenter',()=>show(cell));\
cell.addEventListener('mouseleave',hide);cell.addEventListener('focus',()=>show(cell));cell.addEventListener('blur',hide)}";

/// The page.
pub(super) fn page(params: &Params, figure: &Figure) -> Result<String, StageError> {
    let title = params.title.as_deref().unwrap_or("Logit lens");
    let mut cells = Vec::new();
    let mut body = String::new();
    for block in &figure.blocks {
        let _ = write!(body, "<h2>“{}”</h2>\n<div class=\"grids\">\n", escape(&block.told()));
        for grid in &block.grids {
            table(&mut body, &mut cells, grid, figure.most);
        }
        body.push_str("</div>\n");
    }
    let stops: Vec<String> = (0..=8).map(|at| Rgb::diverging(f64::from(at) / 8.0).hex()).collect();
    let dropped =
        if figure.dropped > 0 { format!(" Missing results, left out: {}.", figure.dropped) } else { String::new() };
    // `<` can't end the script or begin a comment in it.
    let data = serde_json::to_string(&cells).map_err(|error| StageError::failed(error.to_string()))?;
    let data = data.replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029");
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n\
         <div class=\"bar\" style=\"background:linear-gradient(to right,{})\"></div>\n\
         <div class=\"note\">entropy from 0 (blue) to {:.2} nats (red)</div>\n{body}\
         <p class=\"note\">Cell: the most probable next token (␣ space, ↵ line end). Above: the token that truly comes \
         next; below: the input token. Layer 0 is the embedding. Point at a cell for its most probable tokens.{dropped}</p>\n\
         <div id=\"tip\"></div>\n<script type=\"application/json\" id=\"cells\">{data}</script>\n\
         <script>{SCRIPT}</script>\n</body>\n</html>\n",
        stops.join(","),
        figure.most,
        title = escape(title),
    ))
}

fn table(body: &mut String, cells: &mut Vec<serde_json::Value>, grid: &Grid, most: f64) {
    let _ = write!(
        body,
        "<figure data-mark=\"{}\">\n<figcaption>{}</figcaption>\n<table>\n",
        escape(&grid.mark),
        escape(&grid.title)
    );
    let first = &grid.layers[0];
    let made = |position: usize| if grid.begins_at(position) { " made" } else { "" };
    let header = |body: &mut String, name: &str, token: &dyn Fn(usize) -> String| {
        let _ = write!(body, "<tr><th>{name}</th>");
        for position in 0..first.len() {
            let _ = write!(body, "<th class=\"token{}\">{}</th>", made(position), escape(&token(position)));
        }
        body.push_str("</tr>\n");
    };
    header(body, "next", &|position| first[position].next.as_deref().map_or(String::new(), visible));
    for (layer, row) in grid.layers.iter().enumerate().rev() {
        let _ = write!(body, "<tr><th>{layer}</th>");
        for (position, cell) in row.iter().enumerate() {
            let color = Rgb::diverging(if most > 0.0 { cell.entropy / most } else { 0.0 });
            let _ = write!(
                body,
                "<td tabindex=\"0\" class=\"{}\" data-cell=\"{}\" style=\"background:{};color:{}\">{}</td>",
                made(position).trim(),
                cells.len(),
                color.hex(),
                color.text(),
                escape(&visible(&cell.top))
            );
            let mut top: Vec<(String, f64)> = cell.top_k.iter().map(|(token, p)| (visible(token), *p)).collect();
            if top.is_empty() {
                top.push((visible(&cell.top), cell.max_probability));
            }
            let mut facts = vec![format!("entropy {:.3} nats", cell.entropy)];
            facts.extend(cell.final_rank.map(|rank| format!("the last layer's token has rank {rank}")));
            facts.extend(cell.kl.map(|kl| format!("KL(last layer ‖ this) {kl:.3} nats")));
            facts.extend(cell.js.zip(cell.tv).map(|(js, tv)| format!("JS {js:.3} nats, TV {tv:.3}")));
            let at = format!("{}, layer {layer}, after {}", grid.title, visible(&cell.token));
            cells.push(json!({ "at": at, "top": top, "facts": facts }));
        }
        body.push_str("</tr>\n");
    }
    header(body, "input", &|position| visible(&first[position].token));
    body.push_str("</table>\n</figure>\n");
}

/// As HTML holds it, in text and in quotes.
fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, c| {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if crate::figure::font::hidden(c) => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
        escaped
    })
}
