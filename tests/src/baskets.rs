//! The expected results of a file of baskets, computed without the host.

use flate2::read::GzDecoder;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;

/// Total of its purchases from which a household is loyal.
const LOYAL_CENTS: i64 = 50_000;

/// Returns the figures that the grocery demo must print for a gzip file of baskets.
pub fn figures(input: &Path) -> Value {
    let mut expected = Expected::default();
    read(input).iter().for_each(|basket| expected.add(basket));
    expected.figures()
}

/// Reads the baskets of a gzip file.
pub fn read(input: &Path) -> Vec<Value> {
    let file = BufReader::new(GzDecoder::new(File::open(input).expect("open the baskets")));
    file.lines().map(|line| serde_json::from_str(&line.expect("read a basket")).expect("a basket is JSON")).collect()
}

/// Expected results of the baskets that were added, whose ids all differ.
#[derive(Default)]
pub struct Expected {
    baskets: u64,
    placed: u64,
    units: i64,
    discount_cents: i64,
    households: BTreeMap<String, i64>,
    stores: BTreeMap<String, i64>,
}

impl Expected {
    /// Adds a basket.
    pub fn add(&mut self, basket: &Value) {
        self.baskets += 1;
        if !is_placed(basket) {
            return;
        }
        self.placed += 1;
        self.units += sum(basket, "quantity");
        self.discount_cents += sum(basket, "discount_cents");
        for (sales, key) in [(&mut self.households, "household_id"), (&mut self.stores, "store_id")] {
            *sales.entry(basket[key].as_str().expect("an id").to_owned()).or_default() += sum(basket, "amount_cents");
        }
    }

    /// Returns the figures as the grocery demo prints them.
    pub fn figures(&self) -> Value {
        let loyal = self.households.values().filter(|cents| **cents >= LOYAL_CENTS).count();
        json!({
            "baskets": self.baskets,
            "placed": self.placed,
            "rejected": self.baskets - self.placed,
            "confirmed": self.placed,
            "units": self.units,
            "sales_cents": self.stores.values().sum::<i64>(),
            "discount_cents": self.discount_cents,
            "stores": self.stores.len(),
            "households": self.households.len(),
            "loyal_households": loyal,
            "notifications": self.placed + loyal as u64,
            "dead_letters": 0,
            "top_stores": best(&self.stores, 5),
        })
    }
}

fn is_placed(basket: &Value) -> bool {
    let quantities: Vec<_> = items(basket).map(|item| item["quantity"].as_i64().expect("a quantity")).collect();
    !quantities.is_empty() && quantities.iter().all(|quantity| *quantity >= 1)
}

fn items(basket: &Value) -> impl Iterator<Item = &Value> {
    basket["items"].as_array().expect("a basket has items").iter()
}

fn sum(basket: &Value, key: &str) -> i64 {
    items(basket).map(|item| item[key].as_i64().expect("a number")).sum()
}

fn best(stores: &BTreeMap<String, i64>, count: usize) -> Vec<(&str, i64)> {
    let sorted: BTreeSet<_> = stores.iter().map(|(store, cents)| (-cents, store.as_str())).collect();
    sorted.into_iter().take(count).map(|(cents, store)| (store, -cents)).collect()
}

/// Runs the grocery demo, which must succeed, and returns its last line, which is JSON.
pub fn demo_figures(demo: &mut Command) -> Value {
    let output = demo.arg("--json").output().expect("run the demo");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the demo failed: {}\n{errors}", output.status);
    let text = String::from_utf8(output.stdout).expect("the demo prints text");
    serde_json::from_str(text.lines().last().expect("the demo prints a line")).expect("the last line is JSON")
}
