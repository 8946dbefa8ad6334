//! Gives the body of the grammar's fuzz target (`fuzz/bodies`) every file of its
//! corpus, as `ouroboros/tests/corpora.rs` does with the library's.

#[path = "../../fuzz/bodies/grammar.rs"]
mod grammar;

#[test]
fn grammar() {
    ouroboros_testing::replay("grammar", grammar::body);
}
