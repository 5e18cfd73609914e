//! What depends on what: a check whose parent is down is *suppressed*, so that one dead database is one message, not thirty.
//!
//! Suppressed checks go on running and changing state; only the opening of incidents and restarts stop. One hop is enough:
//! when a grandparent is down the parent fails by itself, or is suppressed and stands for nobody. A parent counts as down
//! from its first failure that is not yet decided, so that its children, which may notice sooner, wait for its verdict.

use std::collections::BTreeMap;

use keepwatch_model::check::CheckName;
use thiserror::Error;

/// Parents that one check may have.
pub const PARENTS_MAX: usize = 32;

/// Why dependencies were refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DependencyError {
    /// A name that no check has.
    #[error("the check {check} depends on {parent}, and there is no such check")]
    Unknown {
        /// The check.
        check: CheckName,
        /// What it depends on.
        parent: CheckName,
    },
    /// Two checks of a name.
    #[error("there are two checks named {0}")]
    Twice(CheckName),
    /// Too many.
    #[error("the check {0} depends on more than {PARENTS_MAX} others; make a group of them")]
    TooMany(CheckName),
    /// A circle: each depends on the next, the last on the first.
    #[error("checks depend on each other in a circle: {}", names(.0))]
    Cycle(Vec<CheckName>),
}

fn names(cycle: &[CheckName]) -> String {
    let mut all: Vec<&str> = cycle.iter().map(CheckName::as_str).collect();
    all.extend(cycle.first().map(CheckName::as_str));
    all.join(" -> ")
}

/// One check, as far as dependencies go.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    /// Its name.
    pub name: &'a CheckName,
    /// What it depends on: these suppress it.
    pub depends_on: &'a [CheckName],
    /// Members of a group. They do not suppress the group, but a member that depends on its group would hide itself.
    pub members: &'a [CheckName],
}

/// The graph, by position of the checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph {
    parents: Vec<Vec<usize>>,
    children: Vec<Vec<usize>>,
    members: Vec<Vec<usize>>,
}

impl Graph {
    /// Builds the graph.
    ///
    /// # Errors
    /// Unknown or double names, too many parents, circles.
    pub fn new(nodes: &[Node<'_>]) -> Result<Self, DependencyError> {
        let mut places = BTreeMap::new();
        for (at, node) in nodes.iter().enumerate() {
            if places.insert(node.name, at).is_some() {
                return Err(DependencyError::Twice(node.name.clone()));
            }
        }
        let find = |check: &CheckName, list: &[CheckName]| {
            let place = |parent: &CheckName| {
                places
                    .get(parent)
                    .copied()
                    .ok_or_else(|| DependencyError::Unknown {
                        check: check.clone(),
                        parent: parent.clone(),
                    })
            };
            let mut out = list.iter().map(place).collect::<Result<Vec<_>, _>>()?;
            out.sort_unstable();
            out.dedup();
            Ok(out)
        };
        let mut graph = Self::default();
        for node in nodes {
            if node.depends_on.len() > PARENTS_MAX {
                return Err(DependencyError::TooMany(node.name.clone()));
            }
            graph.parents.push(find(node.name, node.depends_on)?);
            graph.members.push(find(node.name, node.members)?);
        }
        graph.children = vec![Vec::new(); nodes.len()];
        for (child, parents) in graph.parents.iter().enumerate() {
            for parent in parents {
                graph.children[*parent].push(child);
            }
        }
        match graph.cycle() {
            Some(cycle) => Err(DependencyError::Cycle(
                cycle.into_iter().map(|at| nodes[at].name.clone()).collect(),
            )),
            None => Ok(graph),
        }
    }

    /// A circle, if there is one: depth-first, with a stack of its own so that a long chain cannot overflow.
    fn cycle(&self) -> Option<Vec<usize>> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.parents.len()];
        let edges = |at: usize| self.parents[at].iter().chain(&self.members[at]);
        for start in 0..marks.len() {
            if marks[start] != Mark::New {
                continue;
            }
            marks[start] = Mark::Open;
            let mut path = vec![(start, 0)];
            while let Some((at, next)) = path.last_mut() {
                match edges(*at).nth(*next).copied() {
                    None => {
                        marks[*at] = Mark::Done;
                        path.pop();
                    }
                    Some(to) => {
                        *next += 1;
                        match marks[to] {
                            Mark::Done => {}
                            Mark::New => {
                                marks[to] = Mark::Open;
                                path.push((to, 0));
                            }
                            Mark::Open => {
                                let from = path.iter().position(|(p, _)| *p == to)?;
                                return Some(path[from..].iter().map(|(p, _)| *p).collect());
                            }
                        }
                    }
                }
            }
        }
        None
    }

    /// What this check depends on.
    pub fn parents(&self, check: usize) -> &[usize] {
        self.parents.get(check).map_or(&[], Vec::as_slice)
    }

    /// What depends on this check.
    pub fn children(&self, check: usize) -> &[usize] {
        self.children.get(check).map_or(&[], Vec::as_slice)
    }

    /// Members of a group.
    pub fn members(&self, check: usize) -> &[usize] {
        self.members.get(check).map_or(&[], Vec::as_slice)
    }

    /// Whether some parent is down.
    pub fn is_suppressed(&self, check: usize, down: impl Fn(usize) -> bool) -> bool {
        self.parents(check).iter().any(|p| down(*p))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> CheckName {
        text.parse().unwrap()
    }

    fn graph(rows: &[(&str, &[&str], &[&str])]) -> Result<Graph, DependencyError> {
        let list = |names: &[&str]| names.iter().map(|n| name(n)).collect::<Vec<_>>();
        let rows: Vec<_> = rows
            .iter()
            .map(|(n, d, m)| (name(n), list(d), list(m)))
            .collect();
        let nodes: Vec<_> = rows
            .iter()
            .map(|(n, d, m)| Node {
                name: n,
                depends_on: d,
                members: m,
            })
            .collect();
        Graph::new(&nodes)
    }

    #[test]
    fn children_of_a_parent_that_is_down_are_suppressed() {
        let g = graph(&[
            ("db", &[], &[]),
            ("api", &["db"], &[]),
            ("web", &["api", "db"], &[]),
        ])
        .unwrap();
        assert_eq!((g.parents(2), g.children(0)), (&[0, 1][..], &[1, 2][..]));
        assert!(g.is_suppressed(1, |p| p == 0) && !g.is_suppressed(0, |_| true));
        assert!(!g.is_suppressed(1, |_| false));
    }

    #[test]
    fn faults_are_named() {
        for (rows, expected) in [
            (
                &[("a", &["b"][..], &[][..])][..],
                "the check a depends on b, and there is no such check",
            ),
            (&[("a", &["a"], &[])], "circle: a -> a"),
            (
                &[("a", &["b"], &[]), ("b", &["c"], &[]), ("c", &["a"], &[])],
                "circle: a -> b -> c -> a",
            ),
            (
                &[("x", &["a"], &[]), ("a", &["b"], &[]), ("b", &["a"], &[])],
                "circle: a -> b -> a",
            ),
            (&[("a", &[], &[]), ("a", &[], &[])], "two checks named a"),
            // A member that depends on its group would hide itself.
            (
                &[("g", &[], &["a"]), ("a", &["g"], &[])],
                "circle: g -> a -> g",
            ),
            (&[("g", &[], &["g"])], "circle: g -> g"),
        ] {
            let e = graph(rows).unwrap_err().to_string();
            assert!(e.contains(expected), "{e}");
        }
    }

    #[test]
    fn a_long_chain_is_no_danger() {
        let names: Vec<_> = (0..20_000).map(|n| name(&format!("c{n}"))).collect();
        let nodes: Vec<_> = (0..names.len())
            .map(|n| Node {
                name: &names[n],
                depends_on: if n == 0 { &[] } else { &names[n - 1..n] },
                members: &[],
            })
            .collect();
        assert!(Graph::new(&nodes).is_ok());
    }

    proptest! {
        /// Edges that run only from later to earlier checks are never a circle; one edge back along a path always is.
        #[test]
        fn circles_are_found(n in 2usize..30, edges in proptest::collection::vec((0usize..30, 0usize..30), 0..60)) {
            let names: Vec<_> = (0..n).map(|i| name(&format!("c{i}"))).collect();
            let mut deps = vec![Vec::new(); n];
            for (a, b) in edges {
                let (a, b) = (a % n, b % n);
                if a > b && deps[a].len() < PARENTS_MAX { deps[a].push(names[b].clone()); }
            }
            let build = |deps: &[Vec<CheckName>]| {
                let nodes: Vec<_> = (0..n).map(|i| Node { name: &names[i], depends_on: &deps[i], members: &[] }).collect();
                Graph::new(&nodes)
            };
            prop_assert!(build(&deps).is_ok());
            if let Some(child) = (0..n).find(|i| !deps[*i].is_empty()) {
                let parent = names.iter().position(|x| *x == deps[child][0]).unwrap();
                deps[parent].push(names[child].clone());
                let e = build(&deps).unwrap_err();
                prop_assert!(matches!(e, DependencyError::Cycle(_)), "{:?}", e);
            }
        }
    }
}
