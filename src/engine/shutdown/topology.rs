//! The order of dependencies: no cycles, and the position of each task at shutdown. Pure; tasks are indices here.

use std::cmp::Ordering;

/// A cycle among `dependencies` (for each task, what it depends on), as the path that comes back to where it began.
pub(crate) fn cycle(dependencies: &[Vec<usize>]) -> Option<Vec<usize>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        No,
        OnPath,
        Done,
    }
    let mut seen = vec![Seen::No; dependencies.len()];
    for start in 0..dependencies.len() {
        if seen[start] != Seen::No {
            continue;
        }
        // The path with, for each task on it, how many of its dependencies were followed. Not recursive: a long chain is
        // not deep.
        let mut path = vec![(start, 0)];
        seen[start] = Seen::OnPath;
        while let Some((task, followed)) = path.last_mut() {
            let Some(next) = dependencies[*task].get(*followed).copied() else {
                seen[*task] = Seen::Done;
                path.pop();
                continue;
            };
            *followed += 1;
            match seen[next] {
                Seen::Done => {}
                Seen::No => {
                    seen[next] = Seen::OnPath;
                    path.push((next, 0));
                }
                Seen::OnPath => {
                    let from = path.iter().position(|(task, _)| *task == next).unwrap_or(0);
                    let around = path[from..].iter().map(|(task, _)| *task);
                    return Some(around.chain([next]).collect());
                }
            }
        }
    }
    None
}

/// Moves all direct and indirect dependents of a task of stage `first` to that stage. Otherwise the task would have to wait
/// for them.
pub(crate) fn pull_forward(stages: &mut [usize], dependencies: &[Vec<usize>], first: usize) {
    let mut dependents = vec![Vec::new(); stages.len()];
    for (task, rests_on) in dependencies.iter().enumerate() {
        rests_on.iter().for_each(|dependency| dependents[*dependency].push(task));
    }
    let mut pulled: Vec<_> = (0..stages.len()).filter(|task| stages[*task] == first).collect();
    while let Some(task) = pulled.pop() {
        for dependent in &dependents[task] {
            if std::mem::replace(&mut stages[*dependent], first) != first {
                pulled.push(*dependent);
            }
        }
    }
}

/// Returns the position of each task at shutdown: its stage, and its depth in it. It is never before its dependents: a task whose
/// own stage is earlier is moved.
pub(crate) fn positions(stages: &[usize], dependencies: &[Vec<usize>]) -> Vec<(usize, usize)> {
    let mut positions: Vec<_> = stages.iter().map(|stage| (*stage, 0)).collect();
    let mut dependents_left = vec![0_usize; stages.len()];
    for dependency in dependencies.iter().flatten() {
        dependents_left[*dependency] += 1;
    }
    let mut settled: Vec<_> = (0..stages.len()).filter(|task| dependents_left[*task] == 0).collect();
    while let Some(task) = settled.pop() {
        let (stage, depth) = positions[task];
        for dependency in &dependencies[task] {
            positions[*dependency] = positions[*dependency].max((stage, depth + 1));
            dependents_left[*dependency] -= 1;
            if dependents_left[*dependency] == 0 {
                settled.push(*dependency);
            }
        }
    }
    positions
}

/// Sorts by name, then by `then`. For each two neighbours that may have one name, `merge` is called: `None` if it has added the second to the
/// first.
///
/// There may be a hundred thousand names, which mostly differ late. So the part after the common prefix is compared as a number, and the names
/// themselves only if the numbers are equal.
pub(crate) fn sort_by_name<T>(
    items: Vec<T>,
    name: impl Fn(&T) -> &str,
    then: impl Fn(&T, &T) -> Ordering,
    merge: impl Fn(&mut T, T) -> Option<T>,
) -> Vec<T> {
    let shared = items.first().map_or(0, |first| {
        let first = name(first).as_bytes();
        items.iter().fold(first.len(), |shared, item| {
            let name = name(item).as_bytes();
            if name.starts_with(&first[..shared]) {
                return shared;
            }
            first[..shared].iter().zip(name).take_while(|(a, b)| a == b).count()
        })
    });
    let number = |name: &str| {
        let rest = name.as_bytes().get(shared..).unwrap_or_default();
        let mut bytes = [0; size_of::<u64>()];
        bytes.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        u64::from_be_bytes(bytes)
    };
    let mut order: Vec<_> =
        items.iter().enumerate().map(|(index, item)| (number(name(item)), index)).collect();
    // The numbers alone first: that takes no jump for a comparison. Stable, because that is faster for parts that are in order already.
    order.sort_by_key(|(number, _)| *number);
    for equal in order.chunk_by_mut(|(a, _), (b, _)| a == b) {
        equal.sort_unstable_by(|(_, a), (_, b)| {
            let (a, b) = (&items[*a], &items[*b]);
            name(a).cmp(name(b)).then_with(|| then(a, b))
        });
    }
    let mut items: Vec<_> = items.into_iter().map(Some).collect();
    let mut sorted: Vec<T> = Vec::with_capacity(items.len());
    let mut before = None;
    for (number, index) in order {
        let mut item = items[index].take();
        if let Some(same) = sorted.last_mut().filter(|_| before == Some(number)) {
            item = item.and_then(|item| merge(same, item));
        }
        sorted.extend(item);
        before = Some(number);
    }
    sorted
}

/// The position of a member at shutdown: its stage, and its depth in it, below its dependents.
pub(crate) type Position = (usize, usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_common_prefixes_are_sorted() {
        let names =
            ["idle-2", "idle-10", "idle-1", "idle-", "idle-100000000b", "idle-100000000a", "idle-1\0", "ä"];
        for count in 0..=names.len() {
            let mut expected: Vec<_> = names[..count].to_vec();
            let sorted =
                sort_by_name(expected.clone(), |item| item, |_, _| Ordering::Equal, |_, item| Some(item));
            expected.sort_unstable();
            assert_eq!(sorted, expected);
        }
    }

    #[test]
    fn cycle_is_returned_as_its_path() {
        assert_eq!(cycle(&[vec![1], vec![2], vec![]]), None);
        assert_eq!(cycle(&[vec![1, 2], vec![3], vec![3], vec![]]), None, "two ways to one task are no cycle");
        assert_eq!(cycle(&[vec![0]]), Some(vec![0, 0]));
        assert_eq!(cycle(&[vec![1], vec![2], vec![3], vec![1]]), Some(vec![1, 2, 3, 1]));
        let chain: Vec<Vec<usize>> = (0..100_000).map(|task| vec![task + 1]).chain([vec![]]).collect();
        assert_eq!(cycle(&chain), None);
    }

    #[test]
    fn dependents_of_the_first_stage_are_pulled_into_it() {
        // 0 depends on 1, which depends on 2, an intake; 3 depends on nothing.
        let mut stages = [7, 9, 0, 5];
        pull_forward(&mut stages, &[vec![1], vec![2], vec![], vec![]], 0);
        assert_eq!(stages, [0, 0, 0, 5]);
    }

    #[test]
    fn no_task_stops_before_its_dependents() {
        // 0 depends on 1, which depends on 2; all in stage 4.
        assert_eq!(positions(&[4, 4, 4], &[vec![1], vec![2], vec![]]), [(4, 0), (4, 1), (4, 2)]);
        // What would be stopped early is put off; what is stopped late anyway keeps its place.
        assert_eq!(positions(&[4, 1, 9], &[vec![1, 2], vec![], vec![]]), [(4, 0), (4, 1), (9, 0)]);
        // The longest way counts.
        let diamond = [vec![1, 2], vec![3], vec![1], vec![]];
        assert_eq!(positions(&[0; 4], &diamond), [(0, 0), (0, 2), (0, 1), (0, 3)]);
    }
}
