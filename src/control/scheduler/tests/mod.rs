//! The scheduler's tests: the plan by table and by property, the task with a runtime that obeys the test.

mod planning;
mod reconciling;
mod rolling;
mod targets;
mod world;
