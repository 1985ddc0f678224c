//! The graph of imports between files, and its circles.

use std::collections::{BTreeMap, BTreeSet};

/// The names that one file takes from another, each with the line of its first use.
pub type Names = BTreeMap<String, usize>;

/// Which file imports which names from which file.
#[derive(Debug, Default)]
pub struct Graph {
    pub edges: BTreeMap<String, BTreeMap<String, Names>>,
}

impl Graph {
    /// Adds an import; a file does not import from itself.
    pub fn add(&mut self, from: &str, to: &str, name: &str, line: usize) {
        if from != to {
            let names = self.edges.entry(from.to_owned()).or_default().entry(to.to_owned()).or_default();
            let first = names.entry(name.to_owned()).or_insert(line);
            *first = line.min(*first);
        }
    }

    /// The number of pairs of files of which the first imports from the second.
    pub fn edge_count(&self) -> usize {
        self.edges.values().map(BTreeMap::len).sum()
    }

    /// The strongly connected parts of more than one file, largest first.
    pub fn circles(&self) -> Vec<Vec<&str>> {
        let mut search = Search::default();
        for file in self.edges.keys() {
            if !search.index.contains_key(file.as_str()) {
                search.visit(self, file);
            }
        }
        let mut circles = search.parts;
        circles.retain(|circle| circle.len() > 1);
        for circle in &mut circles {
            circle.sort_unstable();
        }
        circles.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        circles
    }

    /// The imports between the files of one circle.
    pub fn inside<'a>(&'a self, circle: &[&str]) -> Vec<(&'a str, &'a str, Vec<&'a str>)> {
        let mut arrows = Vec::new();
        for (from, targets) in self.edges.iter().filter(|(from, _)| circle.contains(&from.as_str())) {
            for (to, names) in targets.iter().filter(|(to, _)| circle.contains(&to.as_str())) {
                arrows.push((from.as_str(), to.as_str(), names.keys().map(String::as_str).collect()));
            }
        }
        arrows
    }
}

/// Tarjan's search for strongly connected parts.
#[derive(Default)]
struct Search<'a> {
    index: BTreeMap<&'a str, usize>,
    low: BTreeMap<&'a str, usize>,
    stack: Vec<&'a str>,
    on_stack: BTreeSet<&'a str>,
    parts: Vec<Vec<&'a str>>,
}

impl<'a> Search<'a> {
    fn visit(&mut self, graph: &'a Graph, file: &'a str) {
        let number = self.index.len();
        self.index.insert(file, number);
        self.low.insert(file, number);
        self.stack.push(file);
        self.on_stack.insert(file);
        for target in graph.edges.get(file).into_iter().flat_map(BTreeMap::keys).map(String::as_str) {
            let reached = if !self.index.contains_key(target) {
                self.visit(graph, target);
                self.low[target]
            } else if self.on_stack.contains(target) {
                self.index[target]
            } else {
                continue;
            };
            let low = self.low[file].min(reached);
            self.low.insert(file, low);
        }
        if self.low[file] == number {
            let mut part = Vec::new();
            while let Some(member) = self.stack.pop() {
                self.on_stack.remove(member);
                part.push(member);
                if member == file {
                    break;
                }
            }
            self.parts.push(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_are_the_strongly_connected_parts_of_more_than_one_file() {
        let mut graph = Graph::default();
        for (from, to) in
            [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("d", "e"), ("e", "d"), ("e", "f"), ("f", "f")]
        {
            graph.add(from, to, "X", 1);
        }
        assert_eq!(graph.edge_count(), 7);
        assert_eq!(graph.circles(), [vec!["a", "b", "c"], vec!["d", "e"]]);
        assert_eq!(graph.inside(&["d", "e"]).len(), 2);
    }
}
