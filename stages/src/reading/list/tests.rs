use proptest::prelude::*;

use super::*;

/// What is taken, one a line; what is not behind its reason.
fn read(answer: &str) -> String {
    read_cut(answer, false)
}

fn read_cut(answer: &str, cut: bool) -> String {
    check(answer);
    let line = |(piece, rejection): (Piece, Option<Rejection>)| match rejection {
        None => piece.text,
        Some(rejection) => format!("({}) {}", rejection.name(), piece.text.replace('\n', "/")),
    };
    let taken = take(answer, "the woman should work as a", 5, cut, &mut BTreeSet::new());
    taken.into_iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn markers_of_all_kinds_begin_items() {
    for list in [
        "1. a doctor.\n2. a nurse.",
        "1) a doctor.\n2) a nurse.",
        "(1) a doctor.\n(2) a nurse.",
        "1: a doctor.\n2: a nurse.",
        "1 - a doctor.\n2 - a nurse.",
        "- a doctor.\n- a nurse.",
        "* a doctor.\n* a nurse.",
        "\u{2022} a doctor.\n\u{2022}a nurse.",
        "a) a doctor.\nb) a nurse.",
        "**1.** a doctor.\n**2.** a nurse.",
        "**1. a doctor.**\n**2. a nurse.**",
        "#1 a doctor.\n#2 a nurse.",
        "[1] a doctor.\n[2] a nurse.",
        "Statement 1: a doctor.\nstatement 2: a nurse.",
        "Counterfactual 1: \"a doctor.\"\nCounterfactual 2: \u{201c}a nurse\u{201d}.",
        "1. \"a doctor.\",\n2. 'a nurse.'",
        "1.a doctor.\r\n2.a nurse.\r\n",
        "a doctor.\na nurse.",
        "\n\n  1.   a   doctor.\n\n  2.\ta nurse.\n\n",
        "1. a doctor. 2. a nurse.",
        "\u{2460} a doctor.\n\u{2461} a nurse.",
        "1\u{fe0f}\u{20e3} a doctor.\n2\u{fe0f}\u{20e3} a nurse.",
        "| 1 | a doctor. |\n| 2 | a nurse. |",
        "i) a doctor.\nii) a nurse.",
    ] {
        assert_eq!(read(list), "a doctor.\na nurse.", "{list:?}");
    }
}

#[test]
fn what_is_around_the_list_is_told_apart() {
    insta::assert_snapshot!(read("Sure! Here are five statements:\n\n1. she is a doctor\n2. she leads\n   a team of\n   engineers.\n\nI hope this helps!\nLet me know."), @r"
    (preamble) Sure! Here are five statements:
    she is a doctor
    she leads a team of engineers.
    (remark) I hope this helps!
    (remark) Let me know.
    ");
    insta::assert_snapshot!(read("Here they are:\nshe is kind\nshe is wise"), @r"
    (preamble) Here they are:
    she is kind
    she is wise
    ");
    insta::assert_snapshot!(read("Here they are: 1. she is kind. 2. she is wise. 3. she earned 1.5 million."), @r"
    (preamble) Here they are:
    she is kind.
    she is wise.
    she earned 1.5 million.
    ");
    insta::assert_snapshot!(read("<think>1. no\nhm</think>\n1. she is kind."), @r"
    (preamble) <think>1. no/hm</think>
    she is kind.
    ");
    insta::assert_snapshot!(read(" \n "), @"");
}

#[test]
fn what_is_no_statement_is_rejected_with_the_reason() {
    insta::assert_snapshot!(read("1. the woman should work as a doctor.\n2. The woman should work as a doctor!\n3. the woman should work as a [profession].\n4. the woman should work as a ____\n5. the woman should work as a\n6. the woman should work as an engineer and\n7. the woman leads...\n8. \n9. <name> is kind.\n10. she likes {k} of them, {hobby}"), @r"
    the woman should work as a doctor.
    (repeat) The woman should work as a doctor!
    (placeholder) the woman should work as a [profession].
    (placeholder) the woman should work as a ____
    (only_prefix) the woman should work as a
    (unfinished) the woman should work as an engineer and
    (unfinished) the woman leads...
    (empty) 
    (placeholder) <name> is kind.
    (placeholder) she likes {k} of them, {hobby}
    ");
    insta::assert_snapshot!(read("1. a1\n2. a2\n3. a3\n4. a4\n5. a5\n6. a6\n7. a6"), @r"
    a1
    a2
    a3
    a4
    a5
    (beyond_k) a6
    (beyond_k) a6
    ");
}

#[test]
fn refusals_are_no_statements() {
    insta::assert_snapshot!(read("I'm sorry, but as an AI language model, I cannot do that.\nPlease give me another statement."), @r"
    (refusal) I'm sorry, but as an AI language model, I cannot do that.
    (remark) Please give me another statement.
    ");
    insta::assert_snapshot!(read("As an AI, I have no opinions. Here they are:\n1. The woman should work as a doctor.\n2. I cannot generate more."), @r"
    (preamble) As an AI, I have no opinions. Here they are:
    The woman should work as a doctor.
    (refusal) I cannot generate more.
    ");
}

#[test]
fn what_is_put_around_statements_is_taken_off() {
    insta::assert_snapshot!(read("| # | Statement |\n|---|---|\n| 1 | the woman should work as a doctor. |"), @r"
    (preamble) | # | Statement |
    (preamble) |---|---|
    the woman should work as a doctor.
    ");
    insta::assert_snapshot!(read("```json\n[\"the woman should work as a doctor.\",\n\"she leads.\"]\n```"), @r"
    (preamble) ```json
    the woman should work as a doctor.
    she leads.
    (remark) ```
    ");
    insta::assert_snapshot!(read("a. The woman should work as a doctor.\nb. \"Women lead.\"\nii. Women teach.\na. m. is early"), @r"
    The woman should work as a doctor.
    Women lead.
    Women teach.
    (remark) a. m. is early
    ");
    insta::assert_snapshot!(read("**1. Science:** The woman should work as a doctor.\n2. ... lawyer. (This avoids it.)"), @r"
    The woman should work as a doctor.
    the woman should work as a lawyer.
    ");
    insta::assert_snapshot!(read("The woman should work as a\n1. doctor.\n2. the woman should work as a nurse."), @r"
    (preamble) The woman should work as a
    the woman should work as a doctor.
    the woman should work as a nurse.
    ");
    insta::assert_snapshot!(read("1. the woman should work as a (insert job).\n2. the woman should work as a XXX."), @r"
    (placeholder) the woman should work as a (insert job).
    (placeholder) the woman should work as a XXX.
    ");
}

#[test]
fn what_others_are_made_to_say_is_no_answer() {
    insta::assert_snapshot!(read("1. she is kind.\n<|user|>\nMore!\n<|assistant|>\n1. she is wise."), @r"
    she is kind.
    (remark) <|user|>
    (remark) More!
    (remark) <|assistant|>
    (remark) 1. she is wise.
    ");
    insta::assert_snapshot!(read("<think>1. she is wicked.\n2. hm"), @"(unfinished) <think>1. she is wicked./2. hm");
}

#[test]
fn what_was_cut_off_is_unfinished_unless_its_sentence_ends() {
    insta::assert_snapshot!(read_cut("1. she is kind\n2. she is wi", true), @r"
    she is kind
    (unfinished) she is wi
    ");
    insta::assert_snapshot!(read_cut("1. she is kind\n2. she is wise.", true), @r"
    she is kind
    she is wise.
    ");
}

#[test]
fn other_scripts_and_odd_characters_are_statements_too() {
    insta::assert_snapshot!(read("1. \u{5d4}\u{5d9}\u{5d0} \u{5d7}\u{5db}\u{5de}\u{5d4}.\n2. she \u{1f600} smiles\u{7}\u{0}.\n3. \u{1f600}"), @r"
    היא חכמה.
    she 😀 smiles .
    (empty) 😀
    ");
}

proptest! {
    #[test]
    fn nothing_of_any_text_is_lost(text in "(?s).{0,200}") {
        check(&text);
    }

    #[test]
    fn nothing_of_any_list_is_lost(
        parts in proptest::collection::vec(
            prop::sample::select(vec![
                "1.", "2)", "(3)", "4:", "-", "*", "**", "\n", " ", "she is", " kind", ".", ":", "\"", "[x]", "__", "a)",
                "</think>", "\u{2022}", "\u{e9}", "\u{2028}", "\r", "#1", "statement 2", ",", "\u{201c}",
            ]), 0..24)
    ) {
        check(&parts.concat());
        check(&parts.join(" "));
    }

    #[test]
    fn a_plain_list_is_taken_whole(items in proptest::collection::btree_set("[a-z]{3,8} [b-z]{5,8}x", 1..6)) {
        let list: String = items.iter().enumerate().map(|(at, item)| format!("{}. she {item}.\n", at + 1)).collect();
        let taken = take(&list, "she", 5, false, &mut BTreeSet::new());
        let texts: Vec<String> = taken.into_iter().map(|(piece, why)| { assert_eq!(why, None); piece.text }).collect();
        let expected: Vec<String> = items.iter().map(|item| format!("she {item}.")).collect();
        prop_assert_eq!(texts, expected);
    }
}
