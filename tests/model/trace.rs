//! The way to a state, as lines to read.

use crate::explorer::{Model, NOBODY, Shard, THREADS};
use crate::fingerprint::fingerprint;

/// The way to a round, and once around it.
pub(crate) fn go_round<M: Model>(model: &M, shards: &[Shard], round: &[u32]) -> Vec<String> {
    let (mut lines, mut state) = trace(model, shards, round[0], None);
    lines.push("and so on, round and round:".into());
    let mut steps = Vec::new();
    for id in &round[1..] {
        steps.clear();
        model.steps(&state, &mut steps);
        let next = steps.iter().find_map(|(action, next)| {
            let next = next.ok()?;
            let mark = fingerprint(&model.canonical(&next));
            let known = shards[mark as usize % THREADS].known.get(&mark);
            (known == Some(id)).then_some((*action, next))
        });
        let Some((action, next)) = next else { break };
        state = next;
        lines.push(format!("  {action:<58} {}", model.describe(&state)));
    }
    lines
}

/// The shortest way to a state, and the action that broke a law there.
pub(crate) fn trace<M: Model>(
    model: &M,
    shards: &[Shard],
    id: u32,
    last: Option<u16>,
) -> (Vec<String>, M::State) {
    let mut actions: Vec<u16> = last.into_iter().collect();
    let mut at = id;
    let start = loop {
        let (parent, action) = shards[at as usize % THREADS].parents[at as usize / THREADS];
        if parent == NOBODY {
            break action;
        }
        actions.push(action);
        at = parent;
    };
    let mut state = model.starts()[start as usize];
    let mut lines = vec![format!("start: {}", model.describe(&state))];
    let mut steps = Vec::new();
    for action in actions.into_iter().rev() {
        steps.clear();
        model.steps(&state, &mut steps);
        let (action, next) = steps[action as usize];
        let fault = if model.is_fault(&action) { "!" } else { " " };
        match next {
            Ok(next) => {
                state = next;
                lines.push(format!("{fault} {action:<58} {}", model.describe(&state)));
            }
            Err(_) => lines.push(format!("{fault} {action}")),
        }
    }
    (lines, state)
}
