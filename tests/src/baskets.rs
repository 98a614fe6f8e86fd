//! What must come of a file of baskets, worked out without the host.

use flate2::read::GzDecoder;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;

/// What a household must have bought for to become loyal.
const LOYAL_CENTS: i64 = 50_000;

/// The figures that the grocery demo must print for a gzip file of baskets.
pub fn figures(input: &Path) -> Value {
    let file = BufReader::new(GzDecoder::new(File::open(input).expect("open the baskets")));
    let baskets: Vec<Value> = file
        .lines()
        .map(|line| serde_json::from_str(&line.expect("read a basket")).expect("a basket is JSON"))
        .collect();
    let placed: Vec<&Value> = baskets.iter().filter(|basket| is_placed(basket)).collect();
    let households = sales_by(&placed, "household_id");
    let loyal = households.values().filter(|cents| **cents >= LOYAL_CENTS).count();
    let stores = sales_by(&placed, "store_id");
    json!({
        "baskets": baskets.len(),
        "placed": placed.len(),
        "rejected": baskets.len() - placed.len(),
        "confirmed": placed.len(),
        "units": placed.iter().map(|basket| sum(basket, "quantity")).sum::<i64>(),
        "sales_cents": stores.values().sum::<i64>(),
        "discount_cents": placed.iter().map(|basket| sum(basket, "discount_cents")).sum::<i64>(),
        "stores": stores.len(),
        "households": households.len(),
        "loyal_households": loyal,
        "notifications": placed.len() + loyal,
        "parked": 0,
        "top_stores": best(&stores, 5),
    })
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

fn sales_by<'a>(baskets: &[&'a Value], key: &str) -> BTreeMap<&'a str, i64> {
    let mut sales = BTreeMap::new();
    for basket in baskets {
        *sales.entry(basket[key].as_str().expect("an id")).or_default() += sum(basket, "amount_cents");
    }
    sales
}

fn best<'a>(stores: &BTreeMap<&'a str, i64>, count: usize) -> Vec<(&'a str, i64)> {
    let sorted: BTreeSet<_> = stores.iter().map(|(store, cents)| (-cents, *store)).collect();
    sorted.into_iter().take(count).map(|(cents, store)| (store, -cents)).collect()
}

/// Runs the grocery demo, which must end well, and returns the line of JSON that it ends with.
pub fn demo_figures(demo: &mut Command) -> Value {
    let output = demo.arg("--json").output().expect("run the demo");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the demo failed: {}\n{errors}", output.status);
    let text = String::from_utf8(output.stdout).expect("the demo prints text");
    serde_json::from_str(text.lines().last().expect("the demo prints a line")).expect("the last line is JSON")
}
