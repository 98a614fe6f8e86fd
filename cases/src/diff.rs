//! Two texts, line by line: what is in both, in one, in the other. By their longest common subsequence.

/// Lines of both with a space before them, of the first alone with `-`, of the second alone with `+`.
pub(super) fn lines(first: &str, second: &str) -> String {
    let (first, second): (Vec<&str>, Vec<&str>) = (first.lines().collect(), second.lines().collect());
    let common = common(&first, &second);
    let (mut at, mut of, mut text) = (0, 0, String::new());
    while at < first.len() || of < second.len() {
        let (mark, line) = if at < first.len() && of < second.len() && first[at] == second[of] {
            (at, of) = (at + 1, of + 1);
            (' ', first[at - 1])
        } else if of == second.len() || (at < first.len() && common[at + 1][of] >= common[at][of + 1]) {
            at += 1;
            ('-', first[at - 1])
        } else {
            of += 1;
            ('+', second[of - 1])
        };
        text.push_str(&format!("{mark} {line}\n"));
    }
    text.truncate(text.trim_end().len());
    text
}

/// How many lines the rests of both have in common, from each pair of places on.
fn common(first: &[&str], second: &[&str]) -> Vec<Vec<u32>> {
    let mut common = vec![vec![0; second.len() + 1]; first.len() + 1];
    for at in (0..first.len()).rev() {
        for of in (0..second.len()).rev() {
            common[at][of] = match first[at] == second[of] {
                true => common[at + 1][of + 1] + 1,
                false => common[at + 1][of].max(common[at][of + 1]),
            };
        }
    }
    common
}
