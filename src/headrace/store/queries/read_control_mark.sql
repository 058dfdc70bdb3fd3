-- How far the control plane is. Of the home store. One row, by its primary key.
SELECT epoch, mark FROM headrace.control
