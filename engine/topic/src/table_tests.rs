//! The table against a model: a plain map of filters and the naive matcher.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use crate::hamt::Slot;
use crate::hash::TextHasher;
use crate::heap::shared_len;
use crate::trie::{Slots, TrieNode};
use crate::{Change, Filter, FilterEntry, FilterId, Match, RoutingTable, ShardSet, Writer};

/// What the table should hold.
#[derive(Clone, Default)]
struct Model {
    filters: BTreeMap<String, (ShardSet, ShardSet)>,
}

impl Model {
    fn apply(&mut self, change: &Change) {
        let mut bits = self
            .filters
            .get(&*change.filter)
            .copied()
            .unwrap_or_default();
        bits.0.set(change.shard, change.online);
        bits.1.set(change.shard, change.queue);
        if bits == (ShardSet::EMPTY, ShardSet::EMPTY) {
            self.filters.remove(&*change.filter);
        } else {
            self.filters.insert(change.filter.to_string(), bits);
        }
    }

    fn matching(&self, topic: &str) -> Vec<(String, ShardSet, ShardSet)> {
        let filters = self
            .filters
            .iter()
            .filter(|(filter, _)| crate::matches(filter, topic));
        filters
            .map(|(filter, (online, queue))| (filter.clone(), *online, *queue))
            .collect()
    }

    #[track_caller]
    fn check(&self, table: &RoutingTable, topics: &[String]) {
        assert_eq!(table.filter_count(), self.filters.len());
        let dollars = self.filters.keys().filter(|text| text.starts_with('$'));
        assert_eq!(table.dollar_count(), dollars.count());
        for (text, (online, queue)) in &self.filters {
            let entry = table.filter(text).unwrap();
            assert_eq!(
                (&*entry.text, entry.online, entry.queue),
                (&**text, *online, *queue)
            );
        }
        for topic in topics {
            assert_eq!(
                matching(table, topic),
                self.matching(topic),
                "matches of {topic}"
            );
        }
        check_shape(table);
    }
}

/// What the table says about a topic, in the order of the filters' texts.
fn matching(table: &RoutingTable, topic: &str) -> Vec<(String, ShardSet, ShardSet)> {
    let mut out = Vec::new();
    table.match_topic(topic, &mut out);
    let mut found: Vec<_> = out
        .into_iter()
        .map(
            |Match {
                 filter,
                 online,
                 queue,
                 text,
             }| {
                let entry = table.filter(&text).unwrap();
                assert_eq!(
                    entry,
                    FilterEntry {
                        id: filter,
                        text: Arc::clone(&text),
                        online,
                        queue
                    }
                );
                (text.to_string(), online, queue)
            },
        )
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// Checks the canonical form and that the estimate of memory is what a walk over all nodes finds.
#[track_caller]
fn check_shape(table: &RoutingTable) {
    let mut heap = shared_len(size_of::<RoutingTable>());
    heap += table.exact.heap_len() + table.wild.heap_len();
    let mut ids = BTreeSet::new();
    for slot in Slots::of_branch(&table.exact).chain(table.wild.slots()) {
        match slot {
            Slot::Empty => {}
            Slot::Entry(entry) => {
                heap += shared_len(entry.text.len());
                assert!(ids.insert(entry.id), "id {:?} twice", entry.id);
            }
            Slot::Node(_, node) => {
                heap += node.heap_len();
                let below = node
                    .slots()
                    .filter(|slot| matches!(slot, Slot::Entry(_)))
                    .count();
                assert_eq!(node.count(), below);
                assert!(below >= 2, "a node with {below} filters");
            }
            Slot::Branch(branch) => {
                heap += branch.heap_len();
                let is_needed = match branch.slots() {
                    [] => false,
                    [only] => matches!(only, Slot::Branch(_)),
                    [_, _, ..] => true,
                };
                assert!(is_needed, "a branch with one key");
                assert!(
                    branch
                        .slots()
                        .iter()
                        .all(|slot| !matches!(slot, Slot::Empty))
                );
            }
        }
    }
    assert_eq!(ids.len(), table.filter_count());
    assert_eq!(heap, table.memory());
}

fn change(filter: &str, shard: u8, online: bool, queue: bool) -> Change {
    Change {
        filter: Arc::from(filter),
        shard,
        online,
        queue,
    }
}

fn on(filter: &str) -> Change {
    change(filter, 0, true, false)
}

fn off(filter: &str) -> Change {
    change(filter, 0, false, false)
}

/// Few distinct levels, so that filters overlap, share prefixes and end inside one another.
const LEVELS: [&str; 5] = ["", "a", "b", "$x", "ab"];

fn any_topic() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(&LEVELS[..]), 1..6)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("a name is not empty", |text| !text.is_empty())
}

fn any_filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![2 => prop::sample::select(&LEVELS[..]), 1 => Just("+")];
    (prop::collection::vec(level, 0..5), any::<bool>())
        .prop_map(|(mut levels, tail)| {
            levels.extend(tail.then_some("#"));
            levels.join("/")
        })
        .prop_filter("a filter is valid", |text| Filter::parse(text).is_ok())
}

fn any_change() -> impl Strategy<Value = Change> {
    let bits = prop_oneof![
        Just((false, false)),
        Just((false, false)),
        Just((true, false)),
        Just((false, true)),
        Just((true, true)),
    ];
    (any_filter(), prop::sample::select(&[0_u8, 1, 63][..]), bits)
        .prop_map(|(filter, shard, (online, queue))| change(&filter, shard, online, queue))
}

fn any_batches() -> impl Strategy<Value = Vec<Vec<Change>>> {
    prop::collection::vec(prop::collection::vec(any_change(), 0..20), 1..12)
}

/// All hash bits, few at both ends, or none: every two texts collide.
fn any_hasher() -> impl Strategy<Value = TextHasher> {
    prop::sample::select(&[u32::MAX, 0x8000_0021, 0xC000_0000, 1, 0][..])
        .prop_map(TextHasher::colliding)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// The table agrees with the model after every batch, whatever the hashes.
    #[test]
    fn table_agrees_with_naive_matching(
        batches in any_batches(),
        topics in prop::collection::vec(any_topic(), 1..20),
        hasher in any_hasher(),
    ) {
        let mut writer = Writer::with_hasher(hasher);
        let mut model = Model::default();
        for (index, batch) in batches.iter().enumerate() {
            let table = writer.apply(batch);
            batch.iter().for_each(|change| model.apply(change));
            prop_assert_eq!(table.version(), index as u64 + 1);
            model.check(&table, &topics);
        }
    }

    /// A snapshot stays what it was, however many versions follow.
    #[test]
    fn old_snapshots_do_not_change(
        batches in any_batches(),
        topics in prop::collection::vec(any_topic(), 1..10),
        hasher in any_hasher(),
    ) {
        let mut writer = Writer::with_hasher(hasher);
        let mut model = Model::default();
        let mut past = vec![(writer.current(), model.clone())];
        for batch in &batches {
            batch.iter().for_each(|change| model.apply(change));
            past.push((writer.apply(batch), model.clone()));
        }
        for (version, (table, model)) in past.iter().enumerate() {
            prop_assert_eq!(table.version(), version as u64);
            model.check(table, &topics);
        }
    }

    /// How changes are cut into batches makes no difference but for the version.
    #[test]
    fn many_batches_equal_one(batches in any_batches(), topic in any_topic()) {
        let mut many = Writer::new();
        let mut one = Writer::new();
        for batch in &batches {
            many.apply(batch);
        }
        let one = one.apply(&batches.concat());
        let many = many.current();
        prop_assert_eq!(one.memory(), many.memory());
        prop_assert_eq!(matching(&one, &topic), matching(&many, &topic));
        for change in batches.iter().flatten() {
            prop_assert_eq!(one.filter(&change.filter), many.filter(&change.filter));
        }
    }

    /// Once all filters have left, nothing of them is left behind.
    #[test]
    fn pruning_leaves_nothing_behind(batches in any_batches(), hasher in any_hasher()) {
        let mut writer = Writer::with_hasher(hasher);
        let baseline = writer.current().memory();
        let mut seen = BTreeSet::new();
        for batch in &batches {
            writer.apply(batch);
            seen.extend(batch.iter().map(|change| (Arc::clone(&change.filter), change.shard)));
        }
        let removals: Vec<_> =
            seen.iter().map(|(filter, shard)| change(filter, *shard, false, false)).collect();
        let table = writer.apply(&removals);
        prop_assert_eq!(table.filter_count(), 0);
        prop_assert_eq!(table.memory(), baseline);
        prop_assert_eq!(table.exact.slots().len(), 0);
        prop_assert!(table.wild.slots().all(|slot| matches!(slot, Slot::Empty)));
    }
}

#[test]
fn an_empty_batch_makes_a_version() {
    let mut writer = Writer::new();
    assert_eq!(writer.current().version(), 0);
    let first = writer.apply(&[]);
    assert_eq!((first.version(), first.filter_count()), (1, 0));
    assert_eq!(writer.apply(&[off("a")]).version(), 2);
    assert_eq!(writer.current().version(), 2);
}

#[test]
fn a_filter_that_comes_back_gets_a_new_id() {
    let mut writer = Writer::new();
    let id = |table: &RoutingTable, text: &str| table.filter(text).map(|entry| entry.id);
    for text in ["a/b", "a/#"] {
        let first = id(&writer.apply(&[on(text)]), text).unwrap();
        let kept = writer.apply(&[change(text, 1, true, true), off(text)]);
        assert_eq!(id(&kept, text), Some(first));
        let gone = writer.apply(&[change(text, 1, false, false)]);
        assert_eq!(id(&gone, text), None);
        let second = id(&writer.apply(&[on(text)]), text).unwrap();
        assert!(second > first);
    }
    assert_eq!(writer.ids_left(), u32::MAX - 4);
    assert_eq!(id(&writer.current(), "a/#"), Some(FilterId(4)));
}

#[test]
fn a_change_sets_both_bits_of_its_shard_only() {
    let mut writer = Writer::new();
    writer.apply(&[change("a/+", 3, true, true), change("a/+", 5, false, true)]);
    let entry = writer
        .apply(&[change("a/+", 3, false, true)])
        .filter("a/+")
        .unwrap();
    assert_eq!(entry.online, ShardSet::EMPTY);
    assert_eq!(entry.queue.iter().collect::<Vec<_>>(), [3, 5]);
    let entry = writer
        .apply(&[change("a/+", 5, true, false)])
        .filter("a/+")
        .unwrap();
    assert_eq!(
        (entry.online, entry.queue),
        (ShardSet::one(5), ShardSet::one(3))
    );
}

#[test]
fn a_level_is_no_prefix_of_another() {
    let mut writer = Writer::with_hasher(TextHasher::colliding(0));
    let table = writer.apply(&[on("dev/1/#"), on("dev/12/#"), on("dev/1/+/x"), on("de/1/#")]);
    let texts = |topic: &str| -> Vec<String> {
        matching(&table, topic)
            .into_iter()
            .map(|found| found.0)
            .collect()
    };
    assert_eq!(texts("dev/1/2/x"), ["dev/1/#", "dev/1/+/x"]);
    assert_eq!(texts("dev/12"), ["dev/12/#"]);
    assert_eq!(texts("de/1"), ["de/1/#"]);
    assert!(texts("dev/123/x").is_empty() && texts("d").is_empty() && texts("dev").is_empty());
}

/// Two filters that part at the last level that is allowed make the longest chain of nodes; it is
/// built, searched, cut and freed on a test thread's stack.
#[test]
fn the_deepest_filters_are_handled() {
    let deep = |last: &str| format!("{}{last}", "a/".repeat(crate::LEVELS_MAX - 2));
    let topic = deep("b/c");
    let mut writer = Writer::new();
    let one = writer.apply(&[on(&deep("+/c"))]);
    let two = writer.apply(&[on(&deep("+/#"))]);
    assert_eq!(
        (matching(&one, &topic).len(), matching(&two, &topic).len()),
        (1, 2)
    );
    check_shape(&two);
    let back = writer.apply(&[off(&deep("+/#"))]);
    assert_eq!(back.memory(), one.memory());
    check_shape(&back);
}

/// Every filter of `a` and `+` at each of 8 levels matches: the walk must hold all that waits.
#[test]
fn all_combinations_of_plus_match() {
    let filters = (0..256_u32).map(|bits| {
        let levels = (0..8).map(|level| if bits >> level & 1 == 1 { "+" } else { "a" });
        on(&levels.collect::<Vec<_>>().join("/"))
    });
    let mut writer = Writer::new();
    let table = writer.apply(&filters.collect::<Vec<_>>());
    assert_eq!(matching(&table, "a/a/a/a/a/a/a/a").len(), 256);
    assert_eq!(matching(&table, "a/a/a/b/a/a/a/a").len(), 128);
    assert_eq!(matching(&table, "a/a/a/a/a/a/a").len(), 0);
    check_shape(&table);
}

/// A node waits at every depth of the deepest chain: the walk still needs no heap (asserted where
/// it ends).
#[test]
fn the_deepest_walk_needs_no_heap() {
    let filters = (0..crate::LEVELS_MAX - 1).flat_map(|depth| {
        let path = "a/".repeat(depth);
        [
            on(&format!("{path}+/x")),
            on(&format!("{path}+/y")),
            on(&format!("{path}+/#")),
        ]
    });
    let mut writer = Writer::new();
    let table = writer.apply(&filters.collect::<Vec<_>>());
    let topic = format!("{}x", "a/".repeat(crate::LEVELS_MAX - 1));
    assert_eq!(matching(&table, &topic).len(), crate::LEVELS_MAX);
}

#[test]
#[should_panic(expected = "257 levels")]
fn a_filter_beyond_the_hard_limit_is_refused() {
    Writer::new().apply(&[on(&format!("{}#", "a/".repeat(256)))]);
}

/// The trie node of a level in one version.
fn node<'a>(table: &'a RoutingTable, level: &str) -> &'a Arc<TrieNode> {
    let nodes = table.wild.slots().filter_map(|slot| match slot {
        Slot::Node(_, node) => Some(node),
        Slot::Empty | Slot::Entry(_) | Slot::Branch(_) => None,
    });
    nodes.filter(|node| &*node.level == level).last().unwrap()
}

#[test]
fn versions_share_what_no_change_has_touched() {
    let mut writer = Writer::new();
    let old = writer.apply(&[on("x/a/#"), on("x/b/#"), on("y/a/#"), on("y/b/#")]);
    let new = writer.apply(&[on("x/c/#")]);
    assert!(Arc::ptr_eq(node(&old, "y"), node(&new, "y")));
    assert!(!Arc::ptr_eq(node(&old, "x"), node(&new, "x")));
    let same = writer.apply(&[on("x/c/#"), off("x/d/#")]);
    assert!(
        Arc::ptr_eq(node(&new, "x"), node(&same, "x")),
        "copied for nothing"
    );
}

#[test]
fn snapshots_may_cross_threads() {
    const fn assert_shared<T: Send + Sync>() {}
    assert_shared::<RoutingTable>();
    assert_shared::<Writer>();
}
