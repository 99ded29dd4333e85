//! Closed sets: each member has one name, and the names are public. Pure.

/// An enum of named members, with all of them in a list and the way back from a name. It is public where nothing
/// else stands before its name.
macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($members:tt)+ }) => {
        $crate::names::names! { $(#[$doc])* pub $name { $($members)+ } }
    };
    ($(#[$doc:meta])* $vis:vis $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        $vis enum $name { $($(#[$vdoc])* #[serde(rename = $text)] $variant,)+ }
        impl $name {
            /// Every member, in the order of the contract.
            $vis const ALL: &[Self] = &[$(Self::$variant,)+];
            /// The name used in messages, metrics, tables and logs.
            $vis const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
            /// The member with this name.
            $vis fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.as_str() == name)
            }
        }
    };
}
pub(crate) use names;
