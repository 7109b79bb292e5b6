//! What stands in a syntax tree: names as PostgreSQL keeps them, and text without blanks and comments.

use squawk_syntax::ast::AstNode;
use squawk_syntax::{SyntaxKind, SyntaxNode};

/// The name of a relation: in lower case unless it is quoted, quoted only where that is needed, and without
/// the schema that everything is in.
pub(super) fn name<N: AstNode>(node: Option<N>) -> Option<String> {
    let node = node?;
    let path = node
        .syntax()
        .descendants()
        .find(|node| matches!(node.kind(), SyntaxKind::PATH | SyntaxKind::PATH_REF))
        .unwrap_or_else(|| node.syntax().clone());
    let name: String = words(&path).iter().map(|word| identifier(word)).collect();
    Some(name.strip_prefix("public.").map_or(name.clone(), str::to_owned))
        .filter(|name| !name.is_empty())
}

/// An identifier as PostgreSQL would quote it.
pub(super) fn identifier(word: &str) -> String {
    let Some(inner) = word.strip_prefix('"').and_then(|word| word.strip_suffix('"')) else {
        return word.to_ascii_lowercase();
    };
    let plain =
        |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
    let is_plain =
        inner.chars().all(plain) && !inner.starts_with(|letter: char| letter.is_ascii_digit());
    if is_plain { inner.to_owned() } else { word.to_owned() }
}

/// Words and signs, without blanks and comments.
pub(super) fn words(node: &SyntaxNode) -> Vec<String> {
    node.descendants_with_tokens()
        .filter_map(rowan_token)
        .filter(|(kind, _)| !kind.is_trivia())
        .map(|(_, text)| text)
        .collect()
}

/// Text in lower case with single blanks, none beside parentheses, commas and dots.
pub(super) fn text(node: &SyntaxNode) -> String {
    let mut text = String::new();
    let mut tight = true;
    for word in words(node) {
        let sign = matches!(word.as_str(), "(" | ")" | "," | "." | "::" | "[" | "]");
        if !tight && !sign {
            text.push(' ');
        }
        tight = sign && word != ")" && word != "]";
        text.push_str(&word.to_ascii_lowercase());
    }
    text
}

/// The names in the first parentheses.
pub(super) fn listed(node: &SyntaxNode) -> Vec<String> {
    let words = words(node);
    let inner =
        words.iter().skip_while(|word| *word != "(").skip(1).take_while(|word| *word != ")");
    inner.filter(|word| *word != ",").map(|word| identifier(word)).collect()
}

/// Whether a keyword stands anywhere in it.
pub(super) fn has(node: &SyntaxNode, keyword: SyntaxKind) -> bool {
    node.descendants_with_tokens().any(|element| element.kind() == keyword)
}

/// The nodes of one kind below it.
pub(super) fn below<N: AstNode>(node: &SyntaxNode) -> impl Iterator<Item = N> {
    node.descendants().filter_map(N::cast)
}

fn rowan_token(element: squawk_syntax::SyntaxElement) -> Option<(SyntaxKind, String)> {
    element.into_token().map(|token| (token.kind(), token.text().to_owned()))
}
