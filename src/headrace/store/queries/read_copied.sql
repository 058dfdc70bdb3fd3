-- How far a store's copy of the control plane is. One row, by its primary key.
SELECT copied, copied_mark, recounting FROM headrace.control
